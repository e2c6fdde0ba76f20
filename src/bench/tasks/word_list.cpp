#include "bench/tasks/word_list.h"

#include <algorithm>

#include "text/text_parts.h"

namespace palimpsest {

namespace {

constexpr std::string_view kAdjectives =
    "amber ample ancient angry arctic austere awkward balmy bashful bitter bleak blunt bold"
    " brave brief bright brisk broken bronze bumpy busy calm candid careful cheerful chilly"
    " civil clever cloudy clumsy coarse cobalt colossal compact copper cosmic cosy crimson "
    "crisp crooked curious curly damp daring dazzling deep delicate dense dim distant dizzy"
    " double drowsy dry dusty eager early earnest elastic elegant empty endless equal "
    "exotic faded faint faithful famous fancy fearless feeble fertile fierce filthy flaky "
    "flat fluffy fond fragile fragrant frantic fresh friendly frosty frozen fuzzy generous "
    "gentle giant gifted glad gleaming gloomy glossy golden graceful grand grateful grumpy "
    "handy hardy hasty hazy hearty heavy hidden hollow honest huge humble humid hungry icy "
    "idle immense jagged jolly joyful keen kind lavish lazy lean legal lively lofty lonely "
    "loyal lucky lunar magnetic marble massive mellow merry mighty mild minor misty modest "
    "muddy mute narrow neat nimble noble noisy numb obscure odd opaque orderly pale patient"
    " peaceful plain playful plump polite precious prickly proud purple puzzled quaint "
    "quick quiet radiant rapid rare restless rigid ripe robust rough royal rugged rural "
    "rusty sacred salty savage scarlet serene shabby sharp shiny shy silent silken silver "
    "simple sleepy slender slim slow smooth snowy solid somber sour sparse steady stern "
    "sticky stormy strict sturdy subtle sudden sunny swift tame tart tender thirsty thorny "
    "tidy timid tiny tough tranquil tropical upbeat vacant vague vast velvet vibrant vivid "
    "warm wary weary wicked wise witty wooden young zealous ";

constexpr std::string_view kNouns =
    "acorn actor airport alcove almond anchor ankle anvil apple apricot apron arcade archer"
    " armor arrow artist atlas attic autumn axle bakery ballad bamboo banjo banner barley "
    "barn barrel basket bathtub battery beacon beaker beetle belfry bench berry bicycle "
    "biscuit blanket blossom boulder bracelet branch bridge broom bucket buffalo bugle "
    "bundle bureau burrow butter button cabbage cabin cable cactus camel camera canal "
    "candle canoe canyon captain caramel caravan carpet carriage carrot castle cathedral "
    "cavern cedar cellar cello chalk chapel cherry chestnut chimney chisel cinema cinnamon "
    "circus citadel clarinet clover cobbler coconut comet compass concert copse coral "
    "corridor cottage cotton cousin cradle crater crayon cricket crown crystal cupboard "
    "curtain cushion cyclone dagger daisy dancer desert diamond doctor dolphin domino "
    "donkey dragon drawer dresser drum dungeon eagle easel eclipse elbow elephant ember "
    "emerald engine envelope estuary fabric falcon farmer feather fence fern ferry fiddle "
    "field fig flagon flannel flask flute foghorn forest fountain foxglove freckle furnace "
    "gallery garage garden garlic gazelle geyser ginger giraffe glacier glove goblet "
    "gondola gorge granite grotto guitar hammer hammock harbor harp harvest hatchet hazel "
    "hedgehog helmet heron hinge honey horizon hornet hostel iceberg igloo inkwell island "
    "ivory jacket jaguar jasmine jelly jewel jigsaw journal jungle juniper kayak kennel "
    "kettle keyhole kitchen kite kitten ladder ladle lagoon lantern lark laundry lavender "
    "lemon leopard library lilac lizard lobster locket lumber magnet magpie mallet mango "
    "mansion maple market marsh meadow medal melody melon mermaid meteor mirror mitten "
    "monarch mosaic mountain muffin museum mushroom napkin necklace needle nephew nettle "
    "nutmeg oasis oboe ocean octopus olive onion orchard orchid otter oven oyster paddle "
    "palace panther papaya parcel parrot parsley pasture pebble pelican pencil penguin "
    "pepper piano pigeon pillow pilot pirate planet plateau plaza plum pocket pond poppy "
    "porch possum potato prairie prism pudding pulley pumpkin puppet quarry quilt rabbit "
    "raccoon radish raft rainbow ranger raven ribbon river robin rocket rooster rosebud "
    "saddle saffron sailor salmon sandal satchel saucer scarf school scooter seagull shadow"
    " shovel siren sketch slipper snail socket sparrow spider spinach spiral sponge "
    "squirrel stable statue steeple stream sunset swallow tablet tailor tapestry teapot "
    "temple theatre thicket thimble thistle thunder ticket tiger toboggan tomato tortoise "
    "tower tractor trellis trombone trumpet tulip tunnel turnip turtle twig umbrella uncle "
    "valley vase vessel village vineyard violet violin volcano wagon wallet walnut walrus "
    "waterfall weasel whale whistle widow willow window winter wizard wrench yacht yogurt "
    "zebra zipper ";

constexpr std::string_view kVerbs =
    "absorb accept achieve admire adopt advise agree allow amuse announce answer appear "
    "applaud argue arrange arrive assemble attend avoid balance bargain behave believe "
    "belong borrow bounce breathe bring build calculate capture carve celebrate choose clap"
    " climb collect combine compare complain confess connect construct continue convince "
    "count crawl create cross dance decide decorate defend delay deliver depend describe "
    "deserve destroy develop digest disagree discover divide donate drift earn educate "
    "embrace encourage enjoy enter escape examine exist expand explain explore fasten fetch"
    " finish flee float follow forget forgive gallop gather giggle glide govern grind "
    "grumble guess hesitate hover hurry ignore imagine improve include inform inspect "
    "inspire invent invite juggle kneel knit laugh launch learn lend linger listen manage "
    "measure memorize mention migrate multiply murmur nibble notice obey observe obtain "
    "occupy offer organize participate perform persuade plead polish ponder pour pray "
    "prefer prepare pretend prevent promise protect prove pursue receive recite recover "
    "reduce refuse rejoice relax remember remove repair repeat replace rescue resist "
    "retreat reveal scatter scribble search select separate settle shiver shout sigh sing "
    "sneeze solve sprinkle squeeze stumble succeed suggest surround survive swim tackle "
    "teach tickle travel tremble tumble unfold vanish visit wander whisper wonder worry "
    "wrestle yawn yearn ";

std::string pair_at(int64_t i) {
    const auto n = static_cast<int64_t>(nouns().size());
    std::string pair(adjectives()[static_cast<size_t>(i / n)]);
    pair += '-';
    return pair += nouns()[static_cast<size_t>(i % n)];
}

}  // namespace

const std::vector<std::string_view>& adjectives() {
    static const std::vector<std::string_view> kWords = split_words(kAdjectives);
    return kWords;
}

const std::vector<std::string_view>& nouns() {
    static const std::vector<std::string_view> kWords = split_words(kNouns);
    return kWords;
}

const std::vector<std::string_view>& verbs() {
    static const std::vector<std::string_view> kWords = split_words(kVerbs);
    return kWords;
}

int64_t n_word_pairs() { return static_cast<int64_t>(adjectives().size() * nouns().size()); }

std::string word_pair(Random& random) { return pair_at(random.below(n_word_pairs())); }

std::vector<std::string> distinct_words(int64_t n, Random& random) {
    std::vector<std::string> words;
    for (const auto* list : {&adjectives(), &nouns(), &verbs()}) {
        words.insert(words.end(), list->begin(), list->end());
    }
    random.shuffle(words);
    const auto n_single = static_cast<int64_t>(words.size());
    const int64_t n_pair = std::clamp<int64_t>(n - n_single, 0, n_word_pairs());
    for (const int64_t i : random.sample(n_word_pairs(), n_pair)) words.push_back(pair_at(i));
    words.resize(static_cast<size_t>(std::min(n, n_single + n_pair)));
    return words;
}

}  // namespace palimpsest
