#include "bench/tasks/metrics.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace palimpsest {
namespace {

Sample with(std::vector<std::string> references, std::vector<std::string> classes = {}) {
    Sample sample;
    sample.references = std::move(references);
    sample.classes = std::move(classes);
    return sample;
}

TEST(Metrics, AllIsTheShareOfReferencesFoundInAnyCase) {
    const Sample sample = with({"Alpha", "BETA", "gamma", "delta"});
    EXPECT_EQ(score_all("alpha, beta and Gamma", sample), 0.75);
    EXPECT_EQ(score_all("", sample), 0);
    EXPECT_EQ(score_all("x", with({})), 0);
}

TEST(Metrics, AllReadsControlCharactersAsLineBreaks) {
    EXPECT_EQ(score_all("12\t34", with({"12 34"})), 0);
    EXPECT_EQ(score_all("12\t34", with({"12\n34"})), 1);
    EXPECT_EQ(score_all(std::string_view("\0 7 \x01", 5), with({"7"})), 1);
}

TEST(Metrics, PartIsOneForAnyReference) {
    EXPECT_EQ(score_part("It was Paris, I think", with({"London", "paris"})), 1);
    EXPECT_EQ(score_part("It was Rome", with({"London", "paris"})), 0);
}

TEST(Metrics, ExactWantsAValueThatStandsByItself) {
    const Sample number = with({"1234567"});
    EXPECT_EQ(score_exact("the number is 1234567.", number), 1);
    EXPECT_EQ(score_exact("1234567", number), 1);
    EXPECT_EQ(score_exact("of\n the   word", with({"of the word"})), 1);
    EXPECT_EQ(score_exact("12345678", number), 0);
    EXPECT_EQ(score_exact("01234567", number), 0);
    EXPECT_EQ(score_exact("1234567-4abc", number), 0);
    EXPECT_EQ(score_exact("11234567, no: 1234567", number), 1);
    EXPECT_EQ(score_exact("(1234567)- well", number), 1);
    const Sample uuid = with({"ab12-cd34"});
    EXPECT_EQ(score_exact("AB12-CD34", uuid), 1);
    EXPECT_EQ(score_exact("fab12-cd34", uuid), 0);
    EXPECT_EQ(score_exact("0-ab12-cd34", uuid), 0);
    EXPECT_EQ(score_exact("anything", with({""})), 0);
}

TEST(Metrics, F1CountsWordsAfterNormalising) {
    // "cat sat on mat" against "cat on mat": 3 common, precision 3/4, recall 3/3.
    EXPECT_DOUBLE_EQ(score_f1("The cat sat, on a mat!", with({"cat on the mat"})), 6.0 / 7);
    EXPECT_DOUBLE_EQ(score_f1("no no no", with({"no"})), 0.5);
    EXPECT_EQ(score_f1("the", with({"the"})), 0);  // nothing is left of either
    EXPECT_EQ(score_f1("rome", with({"paris", "Rome"})), 1);
    EXPECT_EQ(score_f1_line("\n\nrome\nand more", with({"Rome"})), 1);
    EXPECT_LT(score_f1("rome\nand more", with({"Rome"})), 1);
}

TEST(Metrics, RougeLComparesSetsOfWordsAsThePackageDoes) {
    // Common subsequence "the cat mat": 3 words; 4 different words written, 3 wanted.
    EXPECT_NEAR(score_rouge_l("the cat on mat", with({"the cat mat"})), 6.0 / 7, 1e-8);
    // Order counts inside a sentence: of "b a" only one word follows "a b".
    EXPECT_NEAR(score_rouge_l("b a", with({"a b"})), 0.5, 1e-8);
    // Across sentences, unions: {a, b} and {c, d} are found.
    EXPECT_NEAR(score_rouge_l("c d.a b", with({"a b. c d"})), 1, 1e-8);
    // Words are counted once.
    EXPECT_NEAR(score_rouge_l("x x x", with({"x"})), 1, 1e-8);
    EXPECT_EQ(score_rouge_l("", with({"a"})), 0);
    EXPECT_EQ(score_rouge_l("...", with({"a"})), 0);
    EXPECT_NEAR(score_rouge_l_line("a b\nc", with({"a b"})), 1, 1e-8);
}

TEST(Metrics, F1CharsTakesCharactersForWords) {
    // Four characters written, two wanted, both found: precision 2/4, recall 2/2.
    EXPECT_DOUBLE_EQ(score_f1_chars("北京大学。", with({"北京"})), 2.0 / 3);
    // "gpt", "4" and "ok" against "gpt", a wide four and "ok": two of three, both ways.
    EXPECT_DOUBLE_EQ(score_f1_chars("GPT 4，ok", with({"gpt４ OK"})), 2.0 / 3);
    EXPECT_EQ(score_f1_chars("答：「上海」！(1)", with({"北京", "答上海　1"})), 1);
    EXPECT_EQ(score_f1_chars("。，", with({"。，"})), 0);  // nothing is left of either
}

TEST(Metrics, F1CharsKnowsTheOriginalsPunctuation) {
    // Of the marks around a title the original drops the second only: 4 words written, 3 wanted.
    EXPECT_DOUBLE_EQ(score_f1_chars("《红楼梦》", with({"红楼梦"})), 6.0 / 7);
    for (const char* mark :
         {"–",  "—",  "‘", "’",  "‛",  "‟",  "…",  "‧",  "、", "〃", "】", "〔", "〟",
          "〰", "〾", "〿", "﹏", "！", "－", "／", "：", "＠", "［", "｀", "､"}) {
        EXPECT_EQ(score_f1_chars(mark, with({mark})), 0) << mark;
    }
    for (const char* word : {"‒",  "‖",  "―",  "‚",  "‥",  "‰",  "　a", "〄", "〈", "〒", "〓",
                             "〠", "〱", "〽", "ぁ", "﹎", "．", "０",  "Ａ", "ｚ", "･"}) {
        EXPECT_EQ(score_f1_chars(word, with({word})), 1) << word;
    }
}

TEST(Metrics, RougeLCharsKeepsPunctuationAndCase) {
    // 4 of 5 characters are common, the full stop and the comma are not.
    EXPECT_NEAR(score_rouge_l_chars("今天开会。", with({"今天，开会"})), 0.8, 1e-8);
    // Of 4 and of 3 characters, two stand in the same order: precision 2/4, recall 2/3.
    EXPECT_NEAR(score_rouge_l_chars("上海很大", with({"大上海"})), 4.0 / 7, 1e-8);
    EXPECT_NEAR(score_rouge_l_chars("A b", with({"x", "a b"})), 0.5, 1e-8);
    EXPECT_EQ(score_rouge_l_chars("", with({"上海"})), 0);
}

TEST(Metrics, ClassesAreSharedByAllThatAreNamed) {
    const std::vector<std::string> classes = {"Food", "Animal", "Other entity"};
    EXPECT_EQ(score_classes_line("Food", with({"Food"}, classes)), 1);
    EXPECT_EQ(score_classes_line("Food or Animal", with({"Food"}, classes)), 0.5);
    EXPECT_EQ(score_classes_line("Animal\nFood", with({"Food"}, classes)), 0);
    EXPECT_EQ(score_classes_line("none", with({"Food"}, classes)), 0);
}

TEST(Metrics, ClassesThatArePartOfTheReferenceDoNotCount) {
    const std::vector<std::string> classes = {"entity", "Other entity"};
    EXPECT_EQ(score_classes_line("Other entity", with({"Other entity"}, classes)), 1);
    // The original looks past the one behind each that it takes out: "tit" stays.
    const std::vector<std::string> nested = {"entity", "tit", "Other entity"};
    EXPECT_EQ(score_classes_line("Other entity", with({"Other entity"}, nested)), 0.5);
}

TEST(Metrics, CountAndRetrievalAreSharesOfTheNumbers) {
    EXPECT_EQ(score_count("There are 12", with({"12"})), 1);
    EXPECT_EQ(score_count("12 or 13", with({"12"})), 0.5);
    EXPECT_EQ(score_count("none", with({"12"})), 0);
    EXPECT_EQ(score_retrieval("Paragraph 7", with({"Paragraph 7"})), 1);
    EXPECT_EQ(score_retrieval("7, 8, 9, 7", with({"Paragraph 7"})), 0.5);
    EXPECT_EQ(score_retrieval("段落7", with({"段落7"})), 1);
    EXPECT_EQ(score_retrieval("17", with({"段落7"})), 0);
    EXPECT_EQ(score_retrieval("7", with({"seventh"})), 0);
}

TEST(Metrics, EditJudgesTheFirstLineOfCode) {
    EXPECT_EQ(score_edit("\n```\n# sum\n// sum\nreturn a;\nmore", with({"return a;"})), 1);
    // 2 * 3 / (4 + 4) for "abcd" and "abxd"
    EXPECT_EQ(score_edit("abcd", with({"abxd"})), 0.75);
    // 2 * 1 / (3 + 3) in whole percent
    EXPECT_EQ(score_edit("abc", with({"axy"})), 0.33);
    EXPECT_EQ(score_edit("# nothing", with({"x"})), 0);
    EXPECT_EQ(score_edit("", with({""})), 1);
}

TEST(Metrics, AccuracyReadsTheFirstLine) {
    const Sample sample = with({"bofik"});
    EXPECT_EQ(score_accuracy("\n bofik \nText: more", sample), 1);
    EXPECT_EQ(score_accuracy("bofik or sumat", sample), 0);
    EXPECT_EQ(first_line_label("\n bofik \nx", sample), "bofik");
}

TEST(Metrics, LabelsAreRightAtTheirPlaces) {
    const Sample sample = with({"Per:friends, per:title ,x\n"});
    EXPECT_DOUBLE_EQ(score_labels("\nper:friends,wrong, X\nmore", sample), 2.0 / 3);
    EXPECT_DOUBLE_EQ(score_labels("per:friends", sample), 1.0 / 3);
    EXPECT_EQ(score_labels("x, per:friends, per:title", sample), 0);
    EXPECT_EQ(score_labels("per:friends, per:title, x, too, many", sample), 1);
    EXPECT_EQ(score_labels("", with({})), 0);
}

TEST(Metrics, LabelsAreListedAsManyAsAreWanted) {
    const Sample sample = with({"Per:friends, per:title ,x\n"});
    EXPECT_EQ(listed_labels(sample.references.front(), sample), "per:friends\nper:title\nx");
    EXPECT_EQ(listed_labels("per:boss", sample), "per:boss\nunknown\nunknown");
    EXPECT_EQ(listed_labels("a,B,,d", sample), "a\nb\n");
    EXPECT_EQ(listed_labels("a", with({})), "");
}

TEST(Metrics, RougeLStemsComparesStemsInTheirOrder) {
    // "the relat were relat" and "relat": one of four, one of one.
    EXPECT_DOUBLE_EQ(score_rouge_l_stems("The relations were related.", with({"Relate"})), 0.4);
    EXPECT_EQ(score_rouge_l_stems("gas", with({"ga"})), 0);  // three letters have no ending
    EXPECT_EQ(score_rouge_l_stems("naïve cars", with({"na VE-car"})), 1);
    EXPECT_EQ(score_rouge_l_stems("b a", with({"a b"})), 0.5);
    EXPECT_EQ(score_rouge_l_stems("\na b\nc d", with({"a b\nx"})), 1);
    EXPECT_EQ(score_rouge_l_stems("?", with({"!"})), 0);
}

TEST(Metrics, ChrfAveragesTheOrdersThatBothHave) {
    // One of two characters, no pair, no word: precision and recall are 1/6.
    EXPECT_DOUBLE_EQ(score_chrf("ab", with({"ac"})), 1.0 / 6);
    // Characters and words: one of two, one of one. The reference has no pairs.
    EXPECT_DOUBLE_EQ(score_chrf("a b", with({"a"})), 5.0 / 6);
    // The other way round: recall counts four times.
    EXPECT_DOUBLE_EQ(score_chrf("a", with({"a b"})), 5.0 / 9);
    // An n-gram counts as often as the reference has it; the word is another.
    EXPECT_DOUBLE_EQ(score_chrf("aa", with({"a"})), 5.0 / 12);
    // What sacrebleu 2.6.0 gives: CHRF(word_order=2).sentence_score.
    EXPECT_NEAR(score_chrf("The cat sat on the mat.", with({"A cat sat on a mat."})),
                0.5717647524586179, 1e-12);
}

TEST(Metrics, ChrfPartsOneMarkOfPunctuationFromAWord) {
    EXPECT_DOUBLE_EQ(score_chrf("a.", with({"a"})), 5.0 / 6);
    EXPECT_DOUBLE_EQ(score_chrf("(a", with({"a"})), 5.0 / 6);
    // "(a" and ")": no word is right. Precision (1/3 + 0) / 2, recall (1 + 0) / 2.
    EXPECT_DOUBLE_EQ(score_chrf("(a)", with({"a"})), 5.0 / 14);
    EXPECT_EQ(score_chrf(".", with({"."})), 1);
}

TEST(Metrics, ChrfCountsCharactersOfUnicode) {
    // One of two characters, no word.
    EXPECT_DOUBLE_EQ(score_chrf("上海", with({"上"})), 5.0 / 12);
    EXPECT_EQ(score_chrf("上\u3000海", with({"北京", "上 海"})), 1);
    EXPECT_EQ(score_chrf("A", with({"a"})), 0);
    EXPECT_EQ(score_chrf("\nhere \nand more", with({"here"})), 1);
    EXPECT_EQ(score_chrf("", with({"a"})), 0);
}

TEST(Metrics, Gsm8kComparesTheFirstFinalNumber) {
    const Sample sample = with({"2 + 2 = 4\n#### 4"});
    EXPECT_EQ(score_gsm8k("so it is\n#### 4\n\nQuestion: #### 5", sample), 1);
    EXPECT_EQ(score_gsm8k("#### 42", sample), 0);
    EXPECT_EQ(score_gsm8k("4", sample), 0);
}

TEST(Metrics, MacroF1IsTheMeanOverLabelsAndPredictions) {
    const std::vector<std::string> labels = {"a", "a", "b", "b"};
    // a: 2*1/(2+1), b: 2*2/(2+2+... ) = 2*1/(2+2), c was predicted once and is no label: 0
    const std::vector<std::string> predicted = {"a", "b", "b", "c"};
    EXPECT_DOUBLE_EQ(macro_f1(labels, predicted), (2.0 / 3 + 2.0 / 4 + 0) / 3);
    EXPECT_EQ(macro_f1(labels, labels), 1);
    EXPECT_EQ(macro_f1({}, {}), 0);
    EXPECT_THROW(macro_f1(labels, {}), Error);
}

TEST(Metrics, MacroF1PairsLabelsLineByLine) {
    const std::vector<std::string> labels = {"a\nb", "a"};
    // a: one right of two labels and two predictions; b: of one and one none.
    EXPECT_DOUBLE_EQ(macro_f1(labels, std::vector<std::string>{"a\na", "b"}), 0.25);
    // A line that is missing is a miss for its label, one too many is nobody's.
    EXPECT_DOUBLE_EQ(macro_f1(labels, std::vector<std::string>{"a", "a\nc"}), 0.5);
}

}  // namespace
}  // namespace palimpsest
