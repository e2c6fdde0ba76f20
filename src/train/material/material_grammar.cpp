// The words that training material is made of. Sentences, names and pairs of words are others than
// the benchmarks' (which src/bench/ generates): what a sidecar learned from must not be what it is
// measured by.

#include "train/material/material_grammar.h"

#include <array>
#include <span>
#include <utility>

#include "core/error.h"

namespace palimpsest {

namespace {

using Words = std::span<const std::string_view>;

constexpr auto kGiven = std::to_array<std::string_view>(
    {"Adela",  "Bertil",  "Carys",   "Dmitri", "Elif",   "Fabio",  "Greta", "Hamid",   "Ines",
     "Jorge",  "Katya",   "Leopold", "Mirela", "Nadeem", "Oriana", "Piotr", "Quentin", "Rosalba",
     "Sanjay", "Teodora", "Ulrich",  "Vasco",  "Wanda",  "Ximena", "Yusuf", "Zofia",   "Anselm",
     "Britta", "Cosimo",  "Dagny",   "Eamon",  "Farida", "Gustav", "Hilde", "Isidro",  "Jadwiga"});
constexpr auto kFamily = std::to_array<std::string_view>(
    {"Abrantes", "Birkeland", "Castellan", "Dvorak",    "Eriksen",    "Fontaine",  "Grabowski",
     "Haddad",   "Ivanescu",  "Jimenez",   "Kowalczyk", "Lindqvist",  "Marchetti", "Novotny",
     "Okonkwo",  "Petrosyan", "Quispe",    "Rautio",    "Sokolova",   "Tanizaki",  "Ustinov",
     "Valverde", "Wendt",     "Yilmaz",    "Zavala",    "Achterberg", "Bouchard",  "Ferreira"});
constexpr auto kTown = std::to_array<std::string_view>(
    {"Arvelund",   "Brestova",  "Calmoor",   "Dunravik", "Esterholm", "Falkmere", "Gralinsk",
     "Hobarden",   "Ilmenhof",  "Jasperton", "Kelvarra", "Lostwick",  "Morvenna", "Nyestad",
     "Ostrevo",    "Pellworth", "Quarnby",   "Risdal",   "Solvenza",  "Tarnwick", "Ulverby",
     "Vintermark", "Westerlo",  "Yarrowdon", "Zelenka"});
constexpr auto kTrade = std::to_array<std::string_view>(
    {"archivist",  "bookbinder",   "bosun",      "caretaker",   "cartographer", "clerk",
     "conductor",  "curator",      "dispatcher", "electrician", "forester",     "glazier",
     "inspector",  "locksmith",    "mechanic",   "miller",      "notary",       "optician",
     "pharmacist", "porter",       "registrar",  "steward",     "surveyor",     "treasurer",
     "translator", "veterinarian", "warden",     "welder"});
constexpr auto kPlace = std::to_array<std::string_view>(
    {"the {town} ferry terminal", "the {town} observatory", "the old mill at {town}",
     "the {town} water works", "the customs house", "the {town} archive",
     "the signal box at {town}", "the printing works", "the {town} clinic", "the research station",
     "the {town} town hall", "the grain exchange", "the railway depot", "the {town} assembly rooms",
     "the textile mill", "the weather office", "the {town} fire brigade",
     "the cooperative at {town}"});
constexpr auto kRoom = std::to_array<std::string_view>(
    {"boiler room", "cold store", "drawing office", "east gate", "file vault", "generator shed",
     "lift shaft", "loading bay", "map room", "pump house", "reading room", "server closet",
     "side entrance", "switch room", "tool crib", "upper workshop", "visitors' cloakroom"});
constexpr auto kThing = std::to_array<std::string_view>(
    {"barometer",  "bellows",   "boathook",   "calipers",    "centrifuge", "chart table",
     "clamp",      "crate",     "dynamo",     "flywheel",    "gasket",     "gearbox",
     "inkstand",   "jack",      "ledger",     "manometer",   "mould",      "oil can",
     "pantograph", "projector", "ratchet",    "rivet gun",   "scaffold",   "seed drill",
     "sextant",    "spindle",   "stencil",    "switchboard", "tarpaulin",  "theodolite",
     "tripod",     "turnstile", "typewriter", "valve",       "winch"});
constexpr auto kThings = std::to_array<std::string_view>(
    {"account books", "bearings",      "blueprints", "bolts of cloth", "cheeses",   "cog wheels",
     "crates",        "deeds",         "drill bits", "envelopes",      "films",     "fuses",
     "glass plates",  "lenses",        "letters",    "pipes",          "planks",    "prints",
     "receipts",      "reels of wire", "roof tiles", "samples",        "seedlings", "spare keys",
     "stamps",        "tickets",       "timetables", "tins of paint",  "tubes",     "vouchers"});
constexpr auto kGoods = std::to_array<std::string_view>(
    {"barley meal", "beeswax", "brass fittings", "charcoal",    "chicory",
     "copper wire", "cork",    "flour",          "gravel",      "hay",
     "lamp oil",    "linseed", "lime",           "malt",        "paper pulp",
     "resin",       "rope",    "sand",           "sheet glass", "soap",
     "tar",         "timber",  "turpentine",     "wool"});
constexpr auto kUnit =
    std::to_array<std::string_view>({"barrels", "boxes", "bundles", "kilograms", "litres", "metres",
                                     "pallets", "sacks", "tonnes", "dozen"});
constexpr auto kMeasure =
    std::to_array<std::string_view>({"degrees", "hectopascals", "millimetres", "volts", "bar",
                                     "decibels", "lux", "knots", "percent", "microsieverts"});
constexpr auto kMonth =
    std::to_array<std::string_view>({"January", "February", "March", "April", "May", "June", "July",
                                     "August", "September", "October", "November", "December"});
constexpr auto kEvent = std::to_array<std::string_view>(
    {"council vote", "engine trial", "exhibition", "flood drill", "harvest fair", "hearing",
     "inspection", "jubilee", "lecture series", "regatta", "relay race", "roof repair",
     "stocktaking", "survey", "tender", "thanksgiving concert", "vaccination day", "village fete"});
constexpr auto kAnimal = std::to_array<std::string_view>(
    {"cat", "goat", "greyhound", "mare", "mule", "pony", "ram", "sheepdog", "terrier", "tortoise"});
constexpr auto kPet = std::to_array<std::string_view>(
    {"Bramble", "Captain", "Dandy", "Fidget", "Gulliver", "Hopscotch", "Juno", "Marzipan", "Nutkin",
     "Ottoline", "Pickle", "Rufus", "Sprocket", "Tansy"});
constexpr auto kComponent = std::to_array<std::string_view>(
    {"archive", "batch",   "cache",  "cursor", "disk",   "export", "feed",  "gateway", "import",
     "index",   "journal", "link",   "mailer", "node",   "packet", "pool",  "queue",   "render",
     "session", "spool",   "stream", "sync",   "thread", "upload", "worker"});
constexpr auto kParameter = std::to_array<std::string_view>(
    {"backoff", "batch_size", "buffer_kb", "depth", "fanout", "grace_ms", "interval", "limit",
     "max_age", "offset", "quota", "rate", "retries", "shards", "timeout_ms", "ttl", "watermark",
     "width"});
constexpr auto kFunction = std::to_array<std::string_view>(
    {"measure", "hold", "seal", "sort", "weigh", "polish", "align", "dry", "mark", "lift", "bind",
     "count", "trim", "cool", "sift"});
constexpr auto kSyllable = std::to_array<std::string_view>(
    {"bo",  "dri", "fen", "gul", "hask", "jor", "kel", "lum", "mor", "nib",
     "orr", "pel", "quo", "ras", "sko",  "tav", "und", "vel", "wim", "zan"});
constexpr auto kSecret = std::to_array<std::string_view>(
    {"Thimble", "Cobweb", "Pylon", "Gantry", "Sorrel", "Tundra", "Walrus", "Kestrel", "Lattice",
     "Bobbin", "Cinder", "Dovetail", "Fjord", "Gusset"});
constexpr auto kSign =
    std::to_array<std::string_view>({"!", "#", "%", "&", "+", "=", "@", "?", "*"});
constexpr auto kColour = std::to_array<std::string_view>(
    {"ochre", "crimson-and-white", "slate grey", "bottle green", "navy", "mustard", "magenta",
     "turquoise", "ivory", "rust-brown"});
constexpr auto kQuality = std::to_array<std::string_view>(
    {"careful", "dependable", "draughty", "expensive", "half-finished", "heavy", "leaky", "modern",
     "neglected", "noisy", "old-fashioned", "popular", "sensible", "spare", "sturdy", "temporary",
     "untidy", "worn"});
constexpr auto kWhen = std::to_array<std::string_view>(
    {"In the first week of {month}", "Towards evening", "After the {event}", "Before the bell rang",
     "Later that year", "On most mornings", "When the {thing} had been repaired",
     "As soon as the road was open", "Twice in {month}", "By the time {name} arrived",
     "Once the {things} were counted", "During the {event}", "Some weeks afterwards",
     "Without much notice", "At the request of the {trade}"});
constexpr auto kWhy = std::to_array<std::string_view>(
    {"because the {thing} could not be trusted", "since nobody wanted to wait for the {trade}",
     "so that the {things} would stay dry", "although {name} had advised against it",
     "in case the {event} was postponed", "as the rules of {place} required",
     "which surprised the {trade} more than anybody", "and the {trade} made a note of it",
     "for there was little room left in the {room}", "while the rest of the staff looked on"});
constexpr auto kPerson = std::to_array<std::string_view>(
    {"{name}", "the {trade}", "the {trade}'s assistant", "{name}, the {trade},",
     "a {trade} from {town}", "the {quality} {trade}"});
constexpr auto kName = std::to_array<std::string_view>({"{given} {family}"});
constexpr auto kVerbPast = std::to_array<std::string_view>(
    {"carried the {things} to {place}", "asked for a {quality} {thing}",
     "spent an hour looking for the {thing}", "wrote to {name} about the {things}",
     "locked the {room} and went home", "found {1}{9} {things} behind the {thing}",
     "compared the {goods} with last year's", "explained how the {thing} was meant to work",
     "promised to return before the {event}", "borrowed a {thing} from {place}",
     "sold the {quality} {thing} to a {trade}", "drew a plan of the {room}",
     "complained about the {goods}", "moved the {things} into the {room}",
     "refused to sign for the {goods}", "kept a list of everyone who had used the {thing}"});
constexpr auto kSentence = std::to_array<std::string_view>(
    {"{when}, {person} {did} {why}.",
     "{when}, {person} {did}.",
     "{person} {did} {why}.",
     "{person} {did}, and {person} {did}.",
     "Nobody at {place} remembered who had ordered the {things}.",
     "The {room} was {quality}, but it was the only one with a {thing}.",
     "There had been a {thing} in the {room} ever since the {event}.",
     "It was said in {town} that the {trade} had once {did}.",
     "What {name} liked best about {town} was the {quality} {thing} near {place}.",
     "A {quality} {thing} is worth more than a {quality} one, as every {trade} knows.",
     "The price of {goods} rose again, {why}.",
     "Neither the {trade} nor the {trade} could say where the {things} had gone.",
     "If the {thing} failed, the {goods} had to be moved by hand.",
     "{name} preferred the {room}, {why}.",
     "The road from {town} to {town} passes {place} and a {quality} bridge.",
     "Most of the {things} came from {town}; the rest were made in the {room}.",
     "Visitors were shown the {thing} first and the {room} last.",
     "The {event} was well attended, {why}.",
     "For years the {things} had been kept in the {room} of {place}.",
     "\"You will need the {thing},\" said {name}, \"and somebody to hold it.\"",
     "\"I have never seen so many {things},\" the {trade} remarked.",
     "To repair a {thing}, one first removes the cover and then waits for the {trade}.",
     "Some blamed the {goods}, others blamed {name}.",
     "{name} had grown up in {town} and knew every {thing} in {place} by its sound.",
     "It takes about {1}{9} minutes to walk from {place} to {place}, less in dry weather.",
     "What the {trade} wanted was simple: fewer {things}, more {goods}, and no {event}.",
     "The {thing} was {colour}; the {room} had been painted to match it.",
     "At first the {quality} {thing} gave no trouble at all.",
     "By then {name} and {name} were no longer on speaking terms.",
     "Of the {1}{9} {things} that left {town}, all but {1} arrived.",
     "An inventory was made, {why}, and then forgotten.",
     "Would the {trade} have come at all if {name} had not written?",
     "The second volume deals with {goods} and {goods}, the third with the {room}.",
     "{person} did not care for {goods}, and said so.",
     "Between {town} and {place} there is only one shop that sells {goods}.",
     "Repairs began at the {room} and ended, {1} weeks later, in the {room}.",
     "According to {name}, a {thing} lasts {1}{9} years if the {trade} leaves it alone.",
     "This was the third {event} at which the {things} ran out.",
     "\"{town} is no place for a {thing},\" {name} wrote home.",
     "The letter mentioned {goods}, a {quality} {thing} and the weather.",
     "Rain delayed the {event}, so {person} {did}.",
     "Little is known of {name} except that the {things} were paid for in advance.",
     "From the window of the {room} one could see {place}.",
     "The report of the {event} runs to {1}{9} pages and mentions {town} only once."});
constexpr auto kHeading = std::to_array<std::string_view>(
    {"Notes on {place}", "The {event} at {town}", "Minutes of the {event}", "A visit to {town}",
     "{name}: recollections", "Handbook of the {trade}", "Letters from {town}",
     "On the {thing} and its uses", "Inventory of {place}", "What happened during the {event}"});
constexpr auto kColumn = std::to_array<std::string_view>(
    {"shelf", "weight in grams", "owner", "year", "status code", "batch"});

constexpr auto kTables = std::to_array<std::pair<std::string_view, Words>>(
    {{"given", kGiven},       {"family", kFamily},     {"town", kTown},       {"trade", kTrade},
     {"place", kPlace},       {"room", kRoom},         {"thing", kThing},     {"things", kThings},
     {"goods", kGoods},       {"unit", kUnit},         {"measure", kMeasure}, {"month", kMonth},
     {"event", kEvent},       {"animal", kAnimal},     {"pet", kPet},         {"part", kComponent},
     {"param", kParameter},   {"function", kFunction}, {"syl", kSyllable},    {"secret", kSecret},
     {"sign", kSign},         {"colour", kColour},     {"quality", kQuality}, {"when", kWhen},
     {"why", kWhy},           {"person", kPerson},     {"name", kName},       {"did", kVerbPast},
     {"sentence", kSentence}, {"heading", kHeading},   {"column", kColumn}});

char any_of(std::string_view characters, Random& random) {
    return characters[static_cast<size_t>(random.below(std::ssize(characters)))];
}

std::string filled(std::string_view slot, Random& random) {
    if (slot == "9") return {any_of("0123456789", random)};
    if (slot == "1") return {any_of("123456789", random)};
    if (slot == "5") return {any_of("012345", random)};
    if (slot == "h") return {any_of("0123456789abcdef", random)};
    if (slot == "A") return {any_of("ABCDEFGHJKLMNPQRSTUVWXYZ", random)};
    if (slot == "x") return {any_of("abcdefghijkmnopqrstuvwxyz", random)};
    return one_of(slot, random);
}

}  // namespace

std::string expand(std::string_view pattern, Random& random) {
    std::string text;
    while (!pattern.empty()) {
        const size_t open = pattern.find('{');
        text += pattern.substr(0, open);
        if (open == std::string_view::npos) break;
        const size_t close = pattern.find('}', open);
        check(close != std::string_view::npos, "a slot of a pattern is not closed");
        text += filled(pattern.substr(open + 1, close - open - 1), random);
        pattern.remove_prefix(close + 1);
    }
    return text;
}

std::string one_of(std::string_view name, Random& random) {
    for (const auto& [known, words] : kTables) {
        if (known != name) continue;
        return expand(words[static_cast<size_t>(random.below(std::ssize(words)))], random);
    }
    throw Error(ErrorCode::kInternal, cat("no table of words is called '", name, "'"));
}

std::string capitalised(std::string text) {
    if (!text.empty() && text[0] >= 'a' && text[0] <= 'z') {
        text[0] = static_cast<char>(text[0] - 'a' + 'A');
    }
    return text;
}

}  // namespace palimpsest
