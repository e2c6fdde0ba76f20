#include "prefix/self_study.h"

#include <algorithm>
#include <filesystem>
#include <random>

#include "core/append_file.h"
#include "core/digest.h"
#include "core/error.h"
#include "engine/generate.h"
#include "engine/session.h"
#include "memory/prefix/prefix_file.h"
#include "prefix/prefix_pieces.h"

namespace palimpsest {

namespace {

namespace fs = std::filesystem;

constexpr size_t kQuoted = 200;  // characters of the prefix that a question starts from

/// What a model is asked to ask; {} stands for a piece of the text.
std::vector<std::string> askings() {
    std::vector<std::string> ways = {
        "Write one short question that the text answers.",
        "Write one question about a detail in this part of the text: \"{}\".",
        "Write a request that somebody who knows the text could be asked to carry out.",
        "Write one question about what this means: \"{}\".",
        "Write one question that compares two things in the text."};
    for (std::string& way : ways) {
        const bool is_request = way.find("request") != std::string::npos;
        way += is_request ? " Write the request only." : " Write the question only.";
    }
    return ways;
}

/// A piece of the prefix's text that begins and ends at a space.
std::string quote(const std::string& text, uint64_t random) {
    if (text.size() <= kQuoted) return text;
    size_t begin = random % (text.size() - kQuoted);
    begin = std::min(text.find(' ', begin), text.size() - kQuoted) + 1;
    const size_t end = text.rfind(' ', std::min(text.size() - 1, begin + kQuoted));
    return end == std::string::npos || end <= begin ? "" : text.substr(begin, end - begin);
}

/// Everything that a study depends on.
std::string study_of(const PrefixRuntime& with, const PrefixText& text, uint64_t seed) {
    PrefixHeader h;
    set_hashes(h, with.engine.loaded().file());
    Digest sum;
    sum.add(cat(h.model, " ", h.tokenizer, " ", h.chat_template, " ", seed));
    sum.add(std::as_bytes(std::span(text.tokens())));
    return sum.hex();
}

/// What an earlier run asked, as far as its lines can be read; the rest is cut off, from the file
/// too. Half a last line is what interrupted runs leave; anything else was damaged.
std::vector<TraceText> saved_study(const PrefixRuntime& with, const std::string& path,
                                   AppendFile& file) {
    const std::string text = file.text();
    std::vector<TraceText> traces;
    size_t at = 0;
    for (size_t end = text.find('\n'); end != text.npos; end = text.find('\n', at)) {
        try {
            std::ranges::move(parse_traces(text.substr(at, end + 1 - at)),
                              std::back_inserter(traces));
        } catch (const Error&) {
            with.note(cat("'", path, "' is damaged in line ", traces.size() + 1,
                          "; the model asks itself again from there"));
            break;
        }
        at = end + 1;
    }
    file.cut(at);
    return traces;
}

}  // namespace

std::vector<TraceText> self_study(const PrefixRuntime& with, const PrefixText& text, int64_t n,
                                  uint64_t seed, const std::string& beside) {
    require(!text.is_raw(), "a model can ask itself only in a chat; a raw prefix needs traces");
    // Named after what it depends on: another text's questions are none of this one's.
    const std::string saved_in = cat(beside, ".", study_of(with, text, seed), ".jsonl");
    AppendFile saved(saved_in);
    std::vector<TraceText> traces = saved_study(with, saved_in, saved);
    if (std::ssize(traces) > n) traces.resize(static_cast<size_t>(n));
    if (std::ssize(traces) == n) return traces;
    const Tokenizer& tokenizer = with.engine.loaded().require_tokenizer();
    const ReadPrefix prefix = read_prefix(with, text, {.saved_in = saved_in + ".entries"});
    const int64_t room = with.engine.config().n_ctx_train - std::ssize(text.tokens());
    const auto say = [&](const std::string& request, const AnswerOptions& options) {
        const std::vector<Segment> tokens = text.request({{request}});
        int64_t length = options.max_tokens;
        for (const Segment& s : tokens) length += std::ssize(s.tokens);
        if (length > room) return std::string();
        const auto session = with.engine.make_session(
            std::make_unique<TraceMemory>(with.engine.backend(), *prefix.exact, length + 1,
                                          PrefixKeys::kPre, TraceMemory::OnStep()));
        return generate(*session, tokenizer, tokens, options).text;
    };
    const std::vector<std::string> ways = askings();
    int64_t n_failed = 0;
    for (uint64_t i = traces.size(); std::ssize(traces) < n; ++i) {
        std::mt19937_64 random(seed + i);
        std::string ask = ways[i % ways.size()];
        if (const size_t at = ask.find("{}"); at != std::string::npos) {
            ask.replace(at, 2, quote(text.text(), random()));
        }
        const auto of_seed = static_cast<uint32_t>(random());
        TraceText trace;
        AnswerOptions asking;
        asking.sampling.temperature = 0.9F;
        asking.sampling.seed = of_seed;
        asking.max_tokens = 48;
        asking.stop = {"\n"};
        trace.prompt = say(ask, asking);
        AnswerOptions answering;
        answering.max_tokens = 80;
        if (trace.prompt.size() >= 4) trace.response = say(trace.prompt, answering);
        // A study that goes on asks again what failed before, and so what came after it.
        const bool is_known = std::ranges::any_of(
            traces, [&](const TraceText& other) { return other.prompt == trace.prompt; });
        if (trace.prompt.size() < 4 || trace.response.empty() || is_known) {
            with.tell("asking itself", std::ssize(traces), n);
            require(++n_failed <= 2 * n + 16,
                    "the model asks itself nothing about this prefix; give ", "traces instead");
            continue;
        }
        saved.add(to_json_line(trace));
        traces.push_back(std::move(trace));
        with.tell("asking itself", std::ssize(traces), n);
    }
    std::error_code ignored;
    fs::remove(saved_in + ".entries", ignored);
    return traces;
}

}  // namespace palimpsest
