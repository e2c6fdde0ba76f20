// libllama parses grammars by recursion, repeats "{4,3}" for ever, finds left recursion only where
// the rule before it is empty by itself, and follows every way through rules one by one. What
// would go wrong is found here first, on the rules alone.

#include "engine/grammar.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "core/error.h"
#include "text/text_parts.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr size_t kMostBytes = size_t{1} << 16U;
constexpr int kMostNested = 64;
constexpr size_t kMostRules = 2000;
constexpr uint32_t kMostCode = 0x10FFFF;    // of a character
constexpr int64_t kMostElements = 100'000;  // when everything is repeated
constexpr int64_t kMostTimes = 2000;        // of one repetition; libllama takes more for no end
constexpr int64_t kMostWays = 4096;         // from a rule to the first characters it may have
constexpr int64_t kMostWaysOn = 512;        // from a place in a rule to the next characters
constexpr int kMostLoops = 4;               // repetitions that end with one another

constexpr int kCharacter = -1;  // or a token; every other symbol is a rule

using Alternative = std::vector<int>;

struct Rule {
    std::string name;
    bool is_defined = false;
    std::vector<Alternative> alternatives = {};
    bool is_loop = false;  // a repetition without an end
    int64_t n_times = 1;   // at most, of one with an end
};

class Parser {
 public:
    explicit Parser(std::string_view text) : text_(text) {}

    std::vector<Rule> run() {
        space(true);
        while (!ends()) {
            const int rule = named(name());
            space(false);
            if (text_.substr(at_, 3) != "::=") refuse("expected ::=");
            at_ += 3;
            space(true);
            alternatives(rule, 0);
            if (!ends() && peek() != '\r' && peek() != '\n') refuse("expected the rule's end");
            space(true);
        }
        for (const Rule& r : rules_) {
            require(r.is_defined, "the grammar has no rule called '", r.name, "'");
        }
        require(ids_.contains("root"), "the grammar has no rule called 'root'");
        return std::move(rules_);
    }

 private:
    [[noreturn]] void refuse(const std::string& what) const {
        const auto line =
            1 + std::count(text_.begin(), text_.begin() + std::min(at_, text_.size()), '\n');
        throw Error(ErrorCode::kInvalidArgument,
                    cat("the grammar is not valid GBNF: ", what, " in line ", line));
    }
    [[nodiscard]] bool ends() const { return at_ >= text_.size(); }
    [[nodiscard]] char peek() const { return ends() ? '\0' : text_[at_]; }
    static bool is_word(char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               c == '-';
    }
    void space(bool over_lines) {
        for (; !ends(); ++at_) {
            const char c = peek();
            if (c == '#') {
                at_ = std::min(text_.find_first_of("\r\n", at_), text_.size()) - 1;
            } else if (c != ' ' && c != '\t' && !(over_lines && (c == '\r' || c == '\n'))) {
                return;
            }
        }
    }
    std::string name() {
        const size_t begin = at_;
        while (!ends() && is_word(peek())) ++at_;
        if (at_ == begin) refuse("expected a name");
        return std::string(text_.substr(begin, at_ - begin));
    }
    int named(const std::string& name) {
        const auto [found, is_new] = ids_.try_emplace(name, static_cast<int>(rules_.size()));
        if (is_new) add(name, false);
        return found->second;
    }
    int add(const std::string& name, bool is_defined) {
        require(rules_.size() < kMostRules, "the grammar has more than ", kMostRules, " rules");
        rules_.push_back({name, is_defined});
        return static_cast<int>(rules_.size()) - 1;
    }
    void alternatives(int rule, int depth) {
        require(depth <= kMostNested, "the grammar nests more than ", kMostNested, " brackets");
        std::vector<Alternative> all = {sequence(depth)};
        while (peek() == '|') {
            ++at_;
            space(true);
            all.push_back(sequence(depth));
        }
        auto& to = rules_[static_cast<size_t>(rule)];
        to.alternatives = std::move(all);
        to.is_defined = true;
    }
    /// The character here, which is passed; an escape stands for one.
    uint32_t character() {
        if (ends()) refuse("something is not closed");
        if (peek() == '\\') return escape();
        const size_t begin = at_++;
        while (!ends() && (static_cast<unsigned char>(peek()) & 0xC0U) == 0x80) ++at_;
        return code_point(text_.substr(begin, at_ - begin));
    }
    uint32_t escape() {
        const std::string_view rest = text_.substr(at_ + 1);
        at_ += std::min<size_t>(2, text_.size() - at_);
        const char kind = rest.empty() ? '\0' : rest.front();
        constexpr std::string_view kNames = "trn\\\"[]-", kValues = "\t\r\n\\\"[]-";
        if (const size_t i = kNames.find(kind); i != std::string_view::npos) {
            return static_cast<unsigned char>(kValues[i]);
        }
        const size_t n_digits = kind == 'x' ? 2 : kind == 'u' ? 4 : kind == 'U' ? 8 : 0;
        if (n_digits == 0) refuse("an unknown escape");
        const std::string digits(text_.substr(at_, n_digits));
        if (digits.size() < n_digits ||
            digits.find_first_not_of("0123456789abcdefABCDEF") != std::string::npos) {
            refuse(cat("expected ", n_digits, " hexadecimal digits"));
        }
        at_ += n_digits;
        return static_cast<uint32_t>(std::stoul(digits, nullptr, 16));
    }
    /// Elements up to the end of a text in quotes, which is passed.
    int64_t quoted() {
        int64_t n = 0;
        for (++at_; peek() != '"'; ++n) character();
        ++at_;
        return n;
    }
    /// Elements up to the end of a class of characters, which is passed.
    int64_t character_class(bool is_none) {
        int64_t n = 0;
        for (++at_; peek() != ']'; ++n) {
            const uint32_t first = character();
            if (peek() != '-' || text_.substr(at_, 2) == "-]") continue;
            ++at_;
            const uint32_t last = character();
            if (last < first) refuse("a range of characters ends before it begins");
            if (is_none && first <= 1 && last >= kMostCode) refuse("a range excludes everything");
            ++n;
        }
        ++at_;
        return n;
    }
    Alternative sequence(int depth) {
        Alternative all;
        size_t last = 0;         // where that begins which a repetition is of
        int64_t n_elements = 0;  // of it
        const auto put = [&](const Alternative& symbols, int64_t n) {
            last = all.size();
            all.insert(all.end(), symbols.begin(), symbols.end());
            n_elements = n;
            space(depth > 0);
        };
        while (!ends()) {
            const char c = peek();
            if (c == '"' || c == '[') {
                const bool is_none = text_.substr(at_, 2) == "[^";
                if (is_none) ++at_;
                const int64_t n = c == '"' ? quoted() : character_class(is_none);
                put(n > 0 ? Alternative{kCharacter} : Alternative{}, n);
            } else if (c == '.') {
                ++at_;
                put({kCharacter}, 1);
            } else if (c == '<' || c == '!') {
                at_ = text_.find('>', at_);
                if (at_ == std::string_view::npos) refuse("a token is not closed");
                ++at_;
                put({kCharacter}, 1);
            } else if (is_word(c)) {
                put({named(name())}, 1);
            } else if (c == '(') {
                ++at_;
                space(true);
                const int group = add("a group", true);
                alternatives(group, depth + 1);
                if (peek() != ')') refuse("expected )");
                ++at_;
                put({group}, 1);
            } else if (c == '*' || c == '+' || c == '?' || c == '{') {
                if (last == all.size()) refuse("nothing is there to be repeated");
                repeat(all, last, n_elements, depth > 0);
            } else {
                break;
            }
        }
        return all;
    }
    std::optional<int64_t> number(bool over_lines) {
        space(over_lines);
        const size_t begin = at_;
        int64_t n = 0;
        for (; peek() >= '0' && peek() <= '9'; ++at_) {
            n = std::min<int64_t>(n * 10 + (peek() - '0'), kMostElements);
        }
        const bool is_there = at_ > begin;
        space(over_lines);
        return is_there ? std::optional(n) : std::nullopt;
    }
    void repeat(Alternative& all, size_t first, int64_t n_elements, bool over_lines) {
        const char c = text_[at_++];
        std::optional<int64_t> least = c == '+' ? 1 : 0;
        std::optional<int64_t> most;
        if (c == '?') most = 1;
        if (c == '{') {
            least = most = number(over_lines);
            if (!least) refuse("expected a number");
            if (peek() == ',') {
                ++at_;
                most = number(over_lines);
            }
            if (peek() != '}') refuse("expected }");
            ++at_;
        }
        space(over_lines);
        if (most && *most < *least) {
            refuse(cat("something is repeated ", *least, " to ", *most, " times"));
        }
        if (std::max(most.value_or(0), *least) > kMostTimes) {
            refuse(cat("something is repeated more than ", kMostTimes, " times"));
        }
        n_elements_ += n_elements * std::max(most.value_or(0), *least);
        if (n_elements_ > kMostElements) refuse("too much is repeated");
        Alternative again(all.begin() + static_cast<std::ptrdiff_t>(first), all.end());
        all.resize(first);
        if (std::ssize(again) * std::max<int64_t>(*least, 1) > kMostElements) {
            refuse("too much is repeated");
        }
        for (int64_t i = 0; i < *least; ++i) all.insert(all.end(), again.begin(), again.end());
        if (most == least) return;
        const int more = add("a repetition", true);
        again.push_back(more);
        rules_[static_cast<size_t>(more)].alternatives = {again, {}};
        rules_[static_cast<size_t>(more)].is_loop = !most;
        if (most) rules_[static_cast<size_t>(more)].n_times = *most - *least;
        all.push_back(more);
    }

    std::string_view text_;
    size_t at_ = 0;
    int64_t n_elements_ = 0;
    std::map<std::string, int> ids_;
    std::vector<Rule> rules_;
};

/// What rules may begin with.
class Beginnings {
 public:
    explicit Beginnings(const std::vector<Rule>& rules)
        : rules_(rules),
          nullable_(rules.size()),
          begins_(rules.size()),
          loop_(rules.size(), -1),
          ways_(rules.size()) {}

    void check() {
        fill(nullable_, [&](const Alternative& a) {
            return std::ranges::all_of(a,
                                       [&](int s) { return s != kCharacter && nullable_[at(s)]; });
        });
        fill(begins_, [&](const Alternative& a) {
            for (const int s : a) {
                if (s == kCharacter || begins_[at(s)]) return true;
                if (!nullable_[at(s)]) return false;
            }
            return false;
        });
        for (size_t r = 0; r < rules_.size(); ++r) {
            require(begins_[r] != 0 || nullable_[r] != 0, "the grammar's rule '", rules_[r].name,
                    "' never comes to a character");
        }
        find_loops();
        for (size_t r = 0; r < rules_.size(); ++r) {
            walk(r, [&](int s, bool is_last) {
                const bool grows = s != kCharacter && !is_last && loop_[at(s)] == loop_[r];
                require(!grows, "the grammar's rule '", rules_[r].name, "' begins with itself");
            });
        }
        count_ways();
        count_ways_on();
        count_loops();
    }

 private:
    static size_t at(int symbol) { return static_cast<size_t>(symbol); }
    template <typename Test>
    void fill(std::vector<char>& of, const Test& test) {
        for (bool changes = true; changes;) {
            changes = false;
            for (size_t r = 0; r < rules_.size(); ++r) {
                if (of[r] != 0 || !std::ranges::any_of(rules_[r].alternatives, test)) continue;
                of[r] = 1;
                changes = true;
            }
        }
    }
    /// Symbols that a rule may begin with.
    template <typename Visit>
    void walk(size_t rule, const Visit& visit) const {
        for (const Alternative& a : rules_[rule].alternatives) {
            for (size_t i = 0; i < a.size(); ++i) {
                visit(a[i], i + 1 == a.size());
                if (a[i] == kCharacter || nullable_[at(a[i])] == 0) break;
            }
        }
    }
    /// Tarjan's algorithm: numbers strongly connected rules alike, those that are begun with first.
    void find_loops() {
        std::vector<int> index(rules_.size(), -1);
        std::vector<int> low(rules_.size());
        std::vector<size_t> open;
        int n = 0;
        const auto visit = [&](const auto& self, size_t r) -> void {  // at most kMostRules deep
            index[r] = low[r] = n++;
            open.push_back(r);
            walk(r, [&](int s, bool /*is_last*/) {
                if (s == kCharacter) return;
                if (index[at(s)] < 0) self(self, at(s));
                if (loop_[at(s)] < 0) low[r] = std::min(low[r], low[at(s)]);
            });
            if (low[r] != index[r]) return;
            while (loop_[r] < 0) {
                loop_[open.back()] = n_loops_;
                open.pop_back();
            }
            ++n_loops_;
        };
        for (size_t r = 0; r < rules_.size(); ++r) {
            if (index[r] < 0) visit(visit, r);
        }
    }
    void count_ways() {
        std::vector<std::vector<size_t>> members(static_cast<size_t>(n_loops_));
        for (size_t r = 0; r < rules_.size(); ++r) members[at(loop_[r])].push_back(r);
        for (const auto& loop : members) {
            int64_t n = 0;
            for (const size_t r : loop) {
                n += std::ssize(rules_[r].alternatives);
                walk(r, [&](int s, bool /*is_last*/) {
                    if (s != kCharacter && loop_[at(s)] != loop_[r]) n += ways_[at(s)];
                });
                require(n <= kMostWays, "the grammar's rule '", rules_[r].name,
                        "' may begin in more than ", kMostWays, " ways");
            }
            for (const size_t r : loop) ways_[r] = n;
        }
    }

    /// From every place in a rule: libllama keeps each way as a state while a text is written.
    void count_ways_on() const {
        for (const Rule& rule : rules_) {
            for (const Alternative& a : rule.alternatives) {
                int64_t n = 0;
                for (auto s = a.rbegin(); s != a.rend(); ++s) {
                    const bool goes_on = *s != kCharacter && nullable_[at(*s)] != 0;
                    n = (goes_on ? n : 0) + (*s == kCharacter ? 1 : ways_[at(*s)] * times(at(*s)));
                    require(n <= kMostWaysOn, "the grammar's rule '", rule.name,
                            "' may go on in more than ", kMostWaysOn, " ways");
                }
            }
        }
    }
    /// A repetition of what may be empty can be left for each of the next ones.
    [[nodiscard]] int64_t times(size_t rule) const {
        const Rule& r = rules_[rule];
        if (r.n_times <= 1) return 1;
        const Alternative& body = r.alternatives.front();  // and the repetition itself
        const bool is_empty = std::all_of(body.begin(), body.end() - 1, [&](int s) {
            return s != kCharacter && nullable_[at(s)] != 0;
        });
        return is_empty ? r.n_times : 1;
    }
    /// Repetitions that end with repetitions, as in ((a+)+)+, multiply those states.
    void count_loops() const {
        std::vector<int> depth(rules_.size(), -1);
        const auto measure = [&](const auto& self, size_t r) -> int {
            if (depth[r] >= 0) return depth[r];
            depth[r] = 0;  // around a circle of rules each counts once
            int most = 0;
            for (const Alternative& a : rules_[r].alternatives) {
                for (auto s = a.rbegin(); s != a.rend(); ++s) {
                    if (*s == kCharacter) break;
                    if (at(*s) != r) most = std::max(most, self(self, at(*s)));
                    if (nullable_[at(*s)] == 0) break;
                }
            }
            depth[r] = most + (rules_[r].is_loop ? 1 : 0);
            require(depth[r] <= kMostLoops, "the grammar repeats repetitions more than ",
                    kMostLoops, " deep in rule '", rules_[r].name, "'");
            return depth[r];
        };
        for (size_t r = 0; r < rules_.size(); ++r) measure(measure, r);
    }

    const std::vector<Rule>& rules_;
    std::vector<char> nullable_, begins_;
    std::vector<int> loop_;
    std::vector<int64_t> ways_;
    int n_loops_ = 0;
};

}  // namespace

void check_grammar(std::string_view text) {
    require(text.size() <= kMostBytes, "the grammar has ", text.size(), " bytes; it may have ",
            kMostBytes);
    require(!find_invalid_utf8(text) && text.find('\0') == std::string_view::npos,
            "the grammar is not valid UTF-8, or has a zero byte");
    const std::vector<Rule> rules = Parser(text).run();
    Beginnings(rules).check();
}

}  // namespace palimpsest
