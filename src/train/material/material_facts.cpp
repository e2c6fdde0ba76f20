#include "train/material/material_facts.h"

#include <algorithm>
#include <array>
#include <set>
#include <string_view>

#include "core/error.h"
#include "train/material/material_grammar.h"

namespace palimpsest {

namespace {

using Patterns = std::vector<std::string_view>;

/// Patterns of material_grammar.h in which "{k}" and "{v}" stand for the fact's key and value.
struct FactKind {
    std::string_view key, value;
    Patterns statements, questions, answers;
    bool is_line = false;
};

const Patterns& plain_answers() {
    static const Patterns kAnswers = {"{v}", "{v}.", "It is {v}.", "{k}: {v}.",
                                      "According to the text, {v}."};
    return kAnswers;
}

// NOLINTNEXTLINE(readability-function-size): a table
const std::vector<FactKind>& kinds() {
    static const std::vector<FactKind> kKinds = {
        {"{trade} of {place}",
         "{name}",
         {"The {k} is called {v}.", "{v} has been the {k} for {1} years.",
          "Anyone who needs the {k} should ask for {v}.", "In the end {v} was appointed {k}."},
         {"Who is the {k}?", "What is the name of the {k}?", "Whom should one ask for as the {k}?"},
         {"{v}", "{v}.", "The {k} is {v}.", "That is {v}."}},
        {"{room} of {place}",
         "{A}{9}{9}-{A}{A}{1}",
         {"The door code of the {k} is {v}.", "To open the {k}, enter {v} and wait for the click.",
          "Please note that the {k} now opens with {v}."},
         {"Which code opens the {k}?", "What has to be entered at the {k}?",
          "Give the door code of the {k}."},
         plain_answers()},
        {"{event} in {town}",
         "{1} {month} 19{1}{9}",
         {"The {k} took place on {v}.", "It was on {v} that the {k} was held.",
          "Records date the {k} to {v}.", "Nobody forgot {v}, the day of the {k}."},
         {"When was the {k}?", "On which day did the {k} take place?", "Give the date of the {k}."},
         {"{v}", "On {v}.", "The {k} was on {v}.", "It took place on {v}."}},
        {"{x}{x}{x}{x}{x}{1}{9}",
         "{secret}{9}{9}{sign}{secret}",
         {"The password for the account {k} was changed to {v}.",
          "User {k} signs in with the password {v}.", "Password of {k}: {v}",
          "For the login {k}, the new pass phrase reads {v}."},
         {"What is the password of {k}?", "With which password does {k} sign in?",
          "Repeat the pass phrase of the account {k}."},
         plain_answers()},
        {"{goods} for {name}",
         "{1}{9}{9} {unit}",
         {"The order of {k} comes to {v}.", "We delivered {v} as {k}.",
          "The warehouse set aside {v}, the {k}."},
         {"How much is there of the {k}?", "How large was the order of {k}?"},
         {"{v}", "{v}.", "It comes to {v}.", "The {k}: {v}."}},
        {"{part}_{param}",
         "{1}{9}{9}",
         {"{k} = {v}", "set {k} {v}", "{k}: {v}", "--{k}={v}", "export {k}={v}"},
         {"What is {k} set to?", "Which value does {k} have?", "State the setting of {k}.",
          "grep {k}"},
         {"{v}", "{k} = {v}", "{k} is set to {v}.", "{v}."},
         true},
        {"{syl}{syl}{syl}",
         "a {quality} {thing} used to {function} {things}",
         {"In this trade, a {k} is {v}.", "The word {k} means {v}.",
          "By \"{k}\" the people of {town} understand {v}.", "{k} (noun): {v}."},
         {"What is a {k}?", "Define {k}.", "What does the word {k} mean?"},
         {"{v}", "A {k} is {v}.", "It means {v}."}},
        {"{part}{A}{9}{9}",
         "{1}{9}{9}{9}{9}",
         {"let {k} = {v};", "{k} := {v}", "int {k} = {v};", "{k} <- {v}", "const {k} = {v};"},
         {"What value was assigned to {k}?", "print({k})", "After this code runs, what is in {k}?"},
         {"{v}", "{k} holds {v}.", "{v}."},
         true},
        {"{trade}'s kit at {town}",
         "a {thing}, a {quality} {thing} and {1} {things}",
         {"The {k} consists of {v}.", "Three items make up the {k}: {v}.",
          "Packed as the {k} were {v}."},
         {"What does the {k} consist of?", "List the contents of the {k}.", "What is in the {k}?"},
         {"{v}", "{v}.", "The {k} consists of {v}."}},
        {"{name} in the {room}",
         "extension {1}{9}{9}{9}",
         {"You can reach {k} on {v}.", "{k} answers the telephone on {v}.",
          "The directory lists {k} under {v}."},
         {"On which extension can one reach {k}?", "How is {k} reached by telephone?"},
         {"{v}", "On {v}.", "{k} has {v}."}},
        {"{thing} marked {A}{9}{9}",
         "bay {1}{9}, row {A}",
         {"The {k} is stored in {v}.", "Look for the {k} in {v}.", "In {v} stands the {k}."},
         {"Where is the {k} stored?", "In which bay and row is the {k}?", "Locate the {k}."},
         {"{v}", "In {v}.", "The {k} is in {v}."}},
        {"{1}{9}{9} service to {town}",
         "1{9}:{5}{9}",
         {"The {k} departs at {v}.", "At {v} the {k} leaves.",
          "Passengers for the {k} should be ready by {v}."},
         {"When does the {k} leave?", "At what time does the {k} depart?"},
         {"{v}", "At {v}.", "It leaves at {v}."}},
        {"gauge {A}{A}-{9}{9}",
         "{1}{9}.{9} {measure}",
         {"The reading of {k} was {v}.", "{k}: {v}", "At noon {k} showed {v}.",
          "We logged {v} at {k}."},
         {"What did {k} show?", "State the reading of {k}.", "Which value was logged at {k}?"},
         plain_answers()},
        {"{name}'s {animal}",
         "{pet} the {colour}",
         {"{k} answers to the name {v}.", "They called {k} {v}.", "{v} is the name of {k}."},
         {"What is {k} called?", "What name does {k} answer to?"},
         {"{v}", "{v}.", "{k} is called {v}."}},
        {"release {1}.{9}{9}.{9}",
         "{h}{h}{h}{h}{h}{h}{h}{h}{h}{h}",
         {"The checksum of {k} is {v}.", "{v}  {k}", "{k} was built from commit {v}.",
          "Verify that {k} has the digest {v}."},
         {"What is the checksum of {k}?", "Which digest belongs to {k}?"},
         plain_answers()},
        {"colours of {place}",
         "{colour} and {colour}",
         {"The {k} are {v}.", "In {v} one recognises the {k}.", "Flags were sewn in {v}, the {k}."},
         {"What are the {k}?", "Name the {k}."},
         {"{v}", "{v}.", "The {k} are {v}."}},
        {"ticket {A}{A}{9}{9}{9}",
         "{name}, {town}",
         {"{k} is assigned to {v}.", "Winner of {k}: {v}.", "The holder of {k} is {v}."},
         {"To whom does {k} belong?", "Who holds {k}?"},
         {"{v}", "{v}.", "{k} belongs to {v}."}},
        {"parcel for {name}",
         "{1}{9}{9}{9}{9}{9}{9}{9}",
         {"The {k} travels under the number {v}.", "Track the {k} with {v}.", "{v} is the {k}."},
         {"Under which number does the {k} travel?", "How can the {k} be tracked?"},
         plain_answers()},
        {"meter in the {room} of {place}",
         "{1}{9}{9}{9}{9}{9}",
         {"The {k} stood at {v}.", "Reading {v} was taken from the {k}.", "{k}: {v}"},
         {"What did the {k} stand at?", "Give the reading of the {k}."},
         plain_answers()},
        {"savings book of {name}",
         "{1}{9}{9}{9}{9}{9}{9}",
         {"The {k} has the number {v}.", "Number {v} was given to the {k}.", "{v}: {k}"},
         {"Which number has the {k}?", "Give the number of the {k}."},
         plain_answers()},
        {"card of {name}",
         "{1}{9}{9}{9} {9}{9}{9}{9} {9}{9}{9}{9}",
         {"On the {k} one reads {v}.", "The {k} bears the digits {v}."},
         {"What does one read on the {k}?", "Which digits does the {k} bear?"},
         plain_answers()},
        {"{thing} in {place}",
         "{h}{h}{h}{h}{h}{h}{h}{h}-{h}{h}{h}{h}-{h}{h}{h}{h}",
         {"The {k} is registered as {v}.", "{v} identifies the {k}.", "Device {v} is the {k}."},
         {"As what is the {k} registered?", "What identifies the {k}?"},
         plain_answers()},
        {"session of {x}{x}{x}{x}{1}",
         "{h}{h}{h}{h}{h}{h}{h}{h}-{h}{h}{h}{h}-{h}{h}{h}{h}-{h}{h}{h}{h}-{h}{h}{h}{h}{h}{h}{h}{h}"
         "{h}{h}{h}{h}",
         {"The {k} has the token {v}.", "{k}: {v}", "Log of {v}, the {k}."},
         {"Which token has the {k}?", "State the token of the {k}."},
         plain_answers()},
    };
    return kKinds;
}

std::string with(std::string_view pattern, const Fact& fact) {
    std::string text;
    while (!pattern.empty()) {
        const size_t at = std::min(pattern.find("{k}"), pattern.find("{v}"));
        text += pattern.substr(0, at);
        if (at == std::string_view::npos) break;
        text += pattern[at + 1] == 'k' ? fact.key : fact.value;
        pattern.remove_prefix(at + 3);
    }
    return text;
}

std::string pick(const Patterns& from, const Fact& fact, Random& random) {
    // First the fact, then what else is open: the fact's own text has no slots left.
    return expand(with(from[static_cast<size_t>(random.below(std::ssize(from)))], fact), random);
}

/// A cell of a column.
std::string cell(std::string_view column, Random& random) {
    if (column == "shelf") return expand("{A}{1}{9}", random);
    if (column == "owner") return expand("{name}", random);
    if (column == "year") return expand("18{1}{9}", random);
    if (column == "batch") return expand("{x}{x}-{9}{9}{9}", random);
    return expand("{1}{9}{9}", random);
}

std::string joined(const std::vector<std::string>& cells, std::string_view begin,
                   std::string_view between, std::string_view end) {
    std::string line(begin);
    for (size_t i = 0; i < cells.size(); ++i) line += cat(i > 0 ? between : "", cells[i]);
    return cat(line, end, "\n");
}

}  // namespace

int64_t n_fact_kinds() { return std::ssize(kinds()); }

Fact make_fact(int64_t kind, Random& random) {
    const FactKind& of = kinds().at(static_cast<size_t>(kind));
    Fact fact;
    fact.key = expand(of.key, random);
    fact.value = expand(of.value, random);
    fact.is_line = of.is_line;
    fact.statement = pick(of.statements, fact, random);
    fact.question = pick(of.questions, fact, random);
    fact.answer = pick(of.answers, fact, random);
    if (!of.is_line) {
        fact.statement = capitalised(fact.statement);
        // A code or a digest stays as it is.
        if (!fact.answer.starts_with(fact.value)) fact.answer = capitalised(fact.answer);
    }
    return fact;
}

FactTable make_table(Random& random) {
    constexpr auto kBetween = std::to_array<std::string_view>({" | ", ", ", "\t", "; "});
    const bool is_framed = random.below(3) == 0;
    const std::string_view between =
        is_framed ? kBetween[0] : kBetween.at(static_cast<size_t>(random.below(4)));
    const std::string_view begin = is_framed ? "| " : "";
    const std::string_view end = is_framed ? " |" : "";
    std::vector<std::string> columns = {"item"};
    while (columns.size() < 3) {
        std::string next = one_of("column", random);
        if (next != columns.back()) columns.push_back(std::move(next));
    }
    FactTable table = {.text = joined(columns, begin, between, end), .facts = {}};
    if (is_framed) table.text += "|---|---|---|\n";
    const int64_t n_rows = 4 + random.below(10);
    std::set<std::string> items;
    while (std::ssize(items) < n_rows) {
        std::vector<std::string> row = {expand("{quality} {thing}", random)};
        if (!items.insert(row[0]).second) continue;
        for (size_t c = 1; c < columns.size(); ++c) {
            row.push_back(cell(columns[c], random));
            Fact& fact = table.facts.emplace_back();
            fact.key = cat(columns[c], " of the ", row[0]);
            fact.value = row.back();
            fact.question = pick({"In the table, what is the {k}?",
                                  "What does the table give as {k}?", "Look up the {k}."},
                                 fact, random);
            fact.answer = pick(plain_answers(), fact, random);
        }
        table.text += joined(row, begin, between, end);
    }
    return table;
}

}  // namespace palimpsest
