// Words of Porter's paper with the stems that it gives them, and where NLTK differs.
#include "bench/tasks/stemmer.h"

#include <gtest/gtest.h>

namespace palimpsest {
namespace {

using Words = std::vector<std::pair<const char*, const char*>>;

void expect_stems(const Words& words) {
    for (const auto& [word, stem] : words) EXPECT_EQ(stem_of(word), stem) << word;
}

TEST(Stemmer, TakesPluralsAndPastsAway) {
    expect_stems({{"caresses", "caress"}, {"ponies", "poni"},       {"caress", "caress"},
                  {"cats", "cat"},        {"feed", "feed"},         {"agreed", "agre"},
                  {"bled", "bled"},       {"plastered", "plaster"}, {"motoring", "motor"},
                  {"sing", "sing"},       {"conflated", "conflat"}, {"troubled", "troubl"},
                  {"sized", "size"},      {"hopping", "hop"},       {"tanned", "tan"},
                  {"falling", "fall"},    {"hissing", "hiss"},      {"fizzed", "fizz"},
                  {"failing", "fail"},    {"filing", "file"},       {"happy", "happi"}});
}

TEST(Stemmer, TakesLongEndingsStepByStep) {
    expect_stems(
        {{"relational", "relat"},      {"conditional", "condit"}, {"rational", "ration"},
         {"digitizer", "digit"},       {"radically", "radic"},    {"vietnamization", "vietnam"},
         {"predication", "predic"},    {"operator", "oper"},      {"feudalism", "feudal"},
         {"decisiveness", "decis"},    {"hopefulness", "hope"},   {"callousness", "callous"},
         {"formality", "formal"},      {"sensitivity", "sensit"}, {"sensibility", "sensibl"},
         {"triplicate", "triplic"},    {"formative", "form"},     {"electrical", "electr"},
         {"generalizations", "gener"}, {"oscillators", "oscil"}});
}

TEST(Stemmer, TakesEndingsOfLongStemsOnly) {
    expect_stems({{"revival", "reviv"},
                  {"allowance", "allow"},
                  {"airliner", "airlin"},
                  {"gyroscopic", "gyroscop"},
                  {"adjustable", "adjust"},
                  {"replacement", "replac"},
                  {"adoption", "adopt"},
                  {"communion", "communion"},
                  {"communism", "commun"},
                  {"effective", "effect"},
                  {"probate", "probat"},
                  {"rate", "rate"},
                  {"cease", "ceas"},
                  {"controll", "control"},
                  {"roll", "roll"}});
}

TEST(Stemmer, DiffersFromThePaperAsNltkDoes) {
    // By the paper: "ti", "di", "sai", "enjoi", "geologi", "hopefulli", "us".
    expect_stems({{"ties", "tie"},
                  {"died", "die"},
                  {"say", "say"},
                  {"enjoy", "enjoy"},
                  {"geologi", "geolog"},
                  {"hopefully", "hope"},
                  {"used", "use"}});
    expect_stems({{"skies", "sky"},
                  {"sky", "sky"},
                  {"dying", "die"},
                  {"lying", "lie"},
                  {"tying", "tie"},
                  {"news", "news"},
                  {"inning", "inning"},
                  {"innings", "inning"},
                  {"outing", "outing"},
                  {"outings", "outing"},
                  {"canning", "canning"},
                  {"cannings", "canning"},
                  {"howe", "howe"},
                  {"proceed", "proceed"},
                  {"exceed", "exceed"},
                  {"succeed", "succeed"}});
}

TEST(Stemmer, TakesYForAVowelBehindAConsonantOnly) {
    expect_stems(
        {{"employer", "employ"}, {"flyer", "flyer"}, {"yielding", "yield"}, {"bys", "by"}});
}

TEST(Stemmer, TakesDigitsForConsonants) {
    expect_stems({{"1990s", "1990"}, {"4", "4"}, {"", ""}, {"mp3s", "mp3"}});
}

}  // namespace
}  // namespace palimpsest
