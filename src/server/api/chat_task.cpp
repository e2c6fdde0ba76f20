#include "server/api/chat_task.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <optional>
#include <random>
#include <unordered_map>

#include "core/base64.h"
#include "core/error.h"
#include "engine/memory_choice.h"
#include "engine/prefix_text.h"
#include "memory/attention/entry_store.h"
#include "memory/cache/memories.h"
#include "memory/residue/residues.h"
#include "server/api/answer_run.h"
#include "text/json_text.h"
#include "text/text_parts.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

constexpr size_t kMostTitle = 60;
constexpr size_t kMostName = 256;
constexpr int64_t kMostTokens = int64_t{1} << 40;  // that clients ask for who want no limit

/// Bytes that a budget comes to; -1: that cannot be told of it.
int64_t bytes_of(const Service& service, const MemoryChoice& choice) {
    const Budget budget = parse_budget(choice.budget);
    if (budget.kind == Budget::Kind::kBytes) return budget.count;
    if (budget.kind != Budget::Kind::kEntries) return -1;
    const MemoryShape& shape = service.engine().shape();
    if (shape.n_head_kv == 0) return -1;
    return static_cast<int64_t>(bytes_of_all(shape, entry_type(choice.entries), budget.count));
}

/// Names, in their order; an empty list: none, whatever usually stands before a request.
void read_prefixes(const Service& service, const Fields& memory, MemoryChoice& choice) {
    if (!memory.has("prefix")) return;
    choice.prefixes.clear();
    const auto& known = service.prefixes().named();
    for (const std::string& name : memory.texts("prefix", 8)) {
        const auto at = known.find(name);
        if (at == known.end()) {
            std::vector<std::string> names;
            for (const auto& [n, path] : known) names.push_back(n);
            memory.refuse("prefix", known.empty()
                                        ? "names a prefix memory, and this server has none to "
                                          "choose from; its flag --prefixes says where they are"
                                        : cat("has a name that is none of this server's prefix "
                                              "memories: ",
                                              join(names, ", ")));
        }
        if (std::ranges::find(choice.prefixes, at->second) != choice.prefixes.end()) {
            memory.refuse("prefix", "names one prefix memory twice");
        }
        choice.prefixes.push_back(at->second);
    }
    choice.prefix_gate = choice.prefix_gate && !choice.prefixes.empty();
}

/// A prefix memory stands where the system speaks, or before a text.
void check_fits(const PrefixHeader& prefix, const ChatTask& task) {
    const auto refuse = [&](std::string_view why) {
        throw ApiError(400, cat("the prefix memory '", prefix.name, "' ", why), "memory.prefix");
    };
    if (task.messages.empty() != prefix.is_raw) {
        refuse(prefix.is_raw ? "was built for plain texts (/v1/completions), not for conversations"
                             : "was built for conversations, not for plain texts");
    }
    const auto speaks = [](const ChatMessage& m) { return m.role == "system"; };
    if (std::ranges::any_of(task.messages, speaks)) {
        refuse(
            "is what the system says; leave out the system's message, or the prefix with "
            "\"memory\": {\"prefix\": []}");
    }
}

/// The server's own budget is the most that a request may have.
void check_ceiling(const Service& service, const Fields& memory, const MemoryChoice& choice) {
    const MemoryChoice& ours = service.options().memory;
    const bool is_same = choice.budget == ours.budget && choice.entries == ours.entries;
    if (ours.budget.empty() || is_same) return;
    if (choice.budget.empty()) {
        memory.refuse("policy", "forgets nothing, and the server keeps to a budget");
    }
    const int64_t most = bytes_of(service, ours);
    const int64_t asked = bytes_of(service, choice);
    // A share of a prompt is held to the server's entries when it is known how many they are.
    const Budget::Kind kind = parse_budget(ours.budget).kind;
    const bool is_share = parse_budget(choice.budget).kind == Budget::Kind::kShare;
    const bool is_less =
        is_share && (kind == Budget::Kind::kEntries ||
                     (kind == Budget::Kind::kShare &&
                      parse_budget(choice.budget).share <= parse_budget(ours.budget).share));
    if (!is_less && (most < 0 || asked < 0 || asked > most)) {
        memory.refuse("budget", cat("is more than the server's own, ", ours.budget,
                                    ", or cannot be compared with it"));
    }
}

std::string budget_text(const Fields& memory) {
    const RequestJson* value = memory.find("budget");
    if (value == nullptr) return "";
    if (value->is_string()) return value->get<std::string>();
    return cat(*memory.integer("budget", 1, int64_t{1} << 40));
}

/// Where `what` begins in a text; npos: nowhere. In one pass, whatever the two are (Knuth, Morris
/// and Pratt).
size_t find_in(std::string_view text, std::string_view what) {
    std::vector<size_t> back(what.size(), 0);
    for (size_t i = 1, n = 0; i < what.size(); ++i) {
        while (n > 0 && what[i] != what[n]) n = back[n - 1];
        if (what[i] == what[n]) ++n;
        back[i] = n;
    }
    for (size_t i = 0, n = 0; i < text.size(); ++i) {
        while (n > 0 && text[i] != what[n]) n = back[n - 1];
        if (text[i] == what[n]) ++n;
        if (n == what.size()) return i + 1 - n;
    }
    return std::string_view::npos;
}

/// Cuts `text` out of the first part that has it, as one that is kept.
bool keep_text(std::vector<ChatMessage>& messages, const std::string& text) {
    for (ChatMessage& m : messages) {
        for (size_t i = 0; i < m.parts.size(); ++i) {
            const size_t at = find_in(m.parts[i].text, text);
            if (at == std::string::npos) continue;
            const TextPart whole = m.parts[i];
            std::vector<TextPart> three = {
                {whole.text.substr(0, at), whole.is_context, whole.keep},
                {text, whole.is_context, true},
                {whole.text.substr(at + text.size()), whole.is_context, whole.keep}};
            std::erase_if(three, [](const TextPart& p) { return p.text.empty(); });
            const auto place = m.parts.erase(m.parts.begin() + static_cast<std::ptrdiff_t>(i));
            m.parts.insert(place, three.begin(), three.end());
            return true;
        }
    }
    return false;
}

}  // namespace

ChatTask new_task(const Service& service, std::string_view prefix) {
    ChatTask task;
    task.id = new_id(prefix);
    task.answer = service.options().answer;
    task.memory = service.options().memory;
    return task;
}

void read_stops(const Service& service, const Fields& f, std::string_view name, ChatTask& task) {
    task.answer.stop = f.texts(name, service.limits().stops);
    for (const std::string& text : task.answer.stop) {
        if (text.empty()) f.refuse(name, "has an empty text");
        if (std::ssize(text) > service.limits().stop_bytes) {
            f.refuse(name, cat("has a text of ", text.size(), " bytes; at most ",
                               service.limits().stop_bytes, " are taken"));
        }
    }
}

void read_sampling(const Service& service, const Fields& f, ChatTask& task) {
    SamplingOptions& s = task.answer.sampling;
    if (const auto x = f.number("temperature", 0, 100)) s.temperature = static_cast<float>(*x);
    if (const auto x = f.number("top_p", 0, 1)) {
        if (*x <= 0) f.refuse("top_p", "must be above 0");
        s.top_p = static_cast<float>(*x);
    }
    if (const auto x = f.integer("top_k", -1, 1 << 20)) {
        s.top_k = static_cast<int32_t>(std::max<int64_t>(0, *x));
    }
    if (const auto x = f.number("min_p", 0, 0.999)) s.min_p = static_cast<float>(*x);
    if (const auto x = f.number("repeat_penalty", 0.01, 100)) {
        s.repeat_penalty = static_cast<float>(*x);
    }
    if (const auto x = f.number("frequency_penalty", -2, 2)) {
        s.frequency_penalty = static_cast<float>(*x);
    }
    if (const auto x = f.number("presence_penalty", -2, 2)) {
        s.presence_penalty = static_cast<float>(*x);
    }
    if (const auto x = f.integer("seed", std::numeric_limits<int64_t>::min(),
                                 std::numeric_limits<int64_t>::max())) {
        s.seed = static_cast<uint32_t>(*x);
    } else {
        s.seed = std::random_device{}();
    }
    for (const char* name : {"max_tokens", "max_completion_tokens"}) {
        if (const auto n = f.integer(name, 1, kMostTokens)) {
            task.answer.max_tokens = std::min(*n, service.limits().max_tokens);
        }
    }
    if (f.has("stop")) read_stops(service, f, "stop", task);
    if (const auto bias = f.object("logit_bias")) {
        for (const auto& [name, value] : bias->json().items()) {
            char* end = nullptr;
            const long long id = std::strtoll(name.c_str(), &end, 10);
            if (name.empty() || *end != '\0' || id < 0 || id >= service.tokenizer().n_vocab()) {
                bias->refuse(name, "is no token of this model");
            }
            const auto x = bias->number(name, -100, 100);
            if (x) s.bias.push_back({static_cast<int32_t>(id), static_cast<float>(*x)});
            if (s.bias.size() > 1024) f.refuse("logit_bias", "has more than 1,024 tokens");
        }
    }
}

void read_memory(const Service& service, const Fields& fields, ChatTask& task) {
    const auto memory = fields.object("memory");
    if (!memory) return;
    MemoryChoice& c = task.memory;
    const std::string budget = budget_text(*memory);
    const std::string policy = memory->text("policy").value_or("");
    const bool is_everything = memory->has("budget") && (budget.empty() || budget == "everything");
    if (!policy.empty() || is_everything) {
        c.policy = is_everything ? "full" : policy;
        c.allocator.clear();
        c.residue.clear();
        c.settings.clear();
    }
    if (is_everything || policy == "full") {
        c.budget.clear();
    } else if (!budget.empty()) {
        c.budget = budget;
        if (policy.empty() && c.policy == "full") c.policy.clear();
    }
    if (const auto residue = memory->text("residue"); residue && !c.budget.empty()) {
        c.residue = *residue;
    }
    if (const auto residue = memory->text("residue"); residue && !residue->empty()) {
        try {
            static_cast<void>(find_residue(*residue));
        } catch (const Error& e) {
            memory->refuse("residue", cat("is unknown: ", e.what()));
        }
    }
    if (const auto entries = memory->text("entries")) {
        static constexpr std::array kTypes = {"f32", "f16", "q8_0"};
        if (std::ranges::find(kTypes, *entries) == kTypes.end()) {
            memory->refuse("entries", "must be f32, f16 or q8_0");
        }
        c.entries = *entries;
    }
    read_prefixes(service, *memory, c);
    task.keep = memory->texts("keep", 256);
    if (const auto detail = memory->text("report")) {
        if (*detail != "none" && *detail != "summary" && *detail != "spans") {
            memory->refuse("report", "must be none, summary or spans");
        }
        task.detail = *detail == "none"    ? MemoryDetail::kNone
                      : *detail == "spans" ? MemoryDetail::kSpans
                                           : MemoryDetail::kSummary;
    }
    try {
        static_cast<void>(choose_eviction(c, nullptr));
        if (!c.budget.empty()) static_cast<void>(parse_budget(c.budget));
    } catch (const Error& e) {
        throw ApiError(400, e.what(), "memory");
    }
    check_ceiling(service, *memory, c);
}

const RequestJson& tools_in(const Service& service, const Fields& fields) {
    static const RequestJson kNone = RequestJson::array();
    const RequestJson* tools = fields.list("tools", service.limits().tools);
    if (tools == nullptr) return kNone;
    if (std::ssize(json_text(*tools)) > service.limits().schema_bytes) {
        fields.refuse("tools", cat("have more than ", service.limits().schema_bytes, " bytes"));
    }
    return *tools;
}

void read_tool_choice(const Fields& f, ChatTask& task) {
    const RequestJson* choice = f.find("tool_choice");
    if (choice == nullptr) return;
    if (choice->is_object()) {
        const Fields named(*choice, "tool_choice.");
        const auto function = named.object("function");
        return force_tool((function ? *function : named).text("name").value_or(""), "tool_choice",
                          task);
    }
    const std::string word = f.text("tool_choice").value_or("");
    if (word == "none") {
        task.tools.choice = ToolRequest::Choice::kNone;
    } else if (word == "required") {
        if (task.tools.tools.empty()) {
            f.refuse("tool_choice", "is 'required', and there are no tools");
        }
        task.tools.choice = ToolRequest::Choice::kRequired;
    } else if (word != "auto") {
        f.refuse("tool_choice", "must be none, auto, required or a function");
    }
}

void set_schema(const Service& service, const RequestJson& schema, const std::string& path,
                ChatTask& task) {
    if (!schema.is_object()) throw ApiError(400, cat("'", path, "' must be a JSON schema"), path);
    task.schema = json_text(schema);
    if (std::ssize(task.schema) > service.limits().schema_bytes) {
        throw ApiError(
            400, cat("'", path, "' has more than ", service.limits().schema_bytes, " bytes"), path);
    }
}

void read_format(const Service& service, const Fields& format, std::string_view nested,
                 ChatTask& task) {
    const std::string kind = format.text("type").value_or("");
    if (kind == "json_object") {
        task.schema = R"({"type": "object"})";
    } else if (kind == "json_schema") {
        const auto named = nested.empty() ? std::optional(format) : format.object(nested);
        if (!named) format.refuse(nested, "is missing");
        set_schema(service, named->need("schema"), named->path("schema"), task);
    } else if (kind != "text") {
        format.refuse("type", cat("is '", kind, "'; it must be text, json_object or json_schema"));
    }
}

void force_tool(const std::string& name, const std::string& path, ChatTask& task) {
    RequestJson only = RequestJson::array();
    for (const RequestJson& tool : task.tools.tools) {
        if (tool.is_object() && tool.contains("function") && tool["function"].is_object() &&
            tool["function"].contains("name") && tool["function"]["name"] == name) {
            only.push_back(tool);
        }
    }
    if (only.empty()) throw ApiError(400, cat("no tool is called '", name, "'"), path);
    task.tools.tools = only;
    task.tools.choice = ToolRequest::Choice::kRequired;
    task.tools.may_call_several = false;
}

std::string session_of(const Call& call, const Fields& fields) {
    static constexpr std::array kHeaders = {"x-session-id", "x-claude-code-session-id",
                                            "session-id", "session_id", "x-session-affinity"};
    std::string name;
    for (const char* header : kHeaders) {
        name = call.request().header(header);
        if (!name.empty()) break;
    }
    if (find_invalid_utf8(name)) throw ApiError(400, "the session's name is no UTF-8");
    if (name.empty()) name = fields.text("prompt_cache_key").value_or("");
    if (name.size() > kMostName) {
        throw ApiError(400, cat("a conversation's name has at most ", kMostName, " bytes"),
                       fields.has("prompt_cache_key") ? "prompt_cache_key" : "");
    }
    return name;
}

std::string text_of_data(const std::string& data, const std::string& path) {
    std::string_view coded = data;
    if (coded.starts_with("data:")) {
        const size_t comma = coded.find(',');
        const std::string_view head = coded.substr(0, comma);
        if (comma == std::string_view::npos || !head.ends_with(";base64")) {
            throw ApiError(400, cat("'", path, "' is no data URL in base64"), path);
        }
        if (!head.starts_with("data:text/") && !head.starts_with("data:application/json") &&
            !head.starts_with("data:;")) {
            throw ApiError(400, cat("'", path, "' is no text; only texts can be read"), path);
        }
        coded.remove_prefix(comma + 1);
    }
    std::optional<std::string> text = from_base64(coded);
    if (!text) throw ApiError(400, cat("'", path, "' is no base64"), path);
    if (find_invalid_utf8(*text)) throw ApiError(400, cat("'", path, "' is no UTF-8 text"), path);
    return without_mark(*std::move(text));
}

std::string title_of(const std::vector<ChatMessage>& messages) {
    for (const ChatMessage& m : messages) {
        if (m.role != "user") continue;
        for (size_t i = 0; i < m.parts.size(); ++i) {
            const TextPart& p = m.parts[i];
            const bool is_heading = i + 1 < m.parts.size() && m.parts[i + 1].is_context;
            const std::string_view text = strip(p.text);
            if (p.is_context || is_heading || text.empty()) continue;
            std::string line(text.substr(0, text.find('\n')));
            if (line.size() <= kMostTitle) return line;
            line.resize(kMostTitle);
            line.resize(line.size() - unfinished_utf8(line));
            return line + "…";
        }
    }
    return "";
}

std::string chat_json(const std::vector<ChatMessage>& messages) {
    Json all = Json::array();
    for (const ChatMessage& m : messages) {
        Json one = {{"role", m.role}, {"content", text_of(m)}};
        if (!m.reasoning.empty()) one["reasoning_content"] = m.reasoning;
        for (const MessageCall& c : m.calls) {
            one["tool_calls"].push_back(call_json(c.id, c.name, c.arguments));
        }
        if (!m.call_id.empty()) one["tool_call_id"] = m.call_id;
        if (!m.name.empty()) one["name"] = m.name;
        all.push_back(std::move(one));
    }
    return json_text(all);
}

void remember_messages(ChatTask& task) {
    task.messages_json = chat_json(task.messages);
    task.n_messages = std::ssize(task.messages);
}

void name_results(std::vector<ChatMessage>& messages) {
    std::unordered_map<std::string, std::string> names;
    for (ChatMessage& m : messages) {
        for (const MessageCall& c : m.calls) names[c.id] = c.name;
        if (m.role != "tool" || !m.name.empty()) continue;
        if (const auto at = names.find(m.call_id); at != names.end()) m.name = at->second;
    }
}

std::vector<Segment> prompt_of(Service& service, const ChatTask& task) {
    const Tokenizer& t = service.tokenizer();
    const PrefixDocuments prefixes = service.prefixes().documents(task.memory);
    const PrefixDocument* const prefix = prefixes.empty() ? nullptr : prefixes.front().get();
    if (prefix != nullptr) check_fits(prefix->header(), task);
    if (!task.tokens.empty()) return {{.tokens = task.tokens}};
    if (!task.raw.empty()) {
        return prefix != nullptr ? request_after(*prefix, t, task.raw) : t.encode_raw(task.raw);
    }
    const bool has_tools =
        !task.tools.tools.empty() && task.tools.choice != ToolRequest::Choice::kNone;
    const auto protocol = service.protocol(task.tools);
    const bool is_plain = protocol != nullptr && !protocol->instructions().empty();
    // Without tools there may still be calls and results of before.
    std::vector<ChatMessage> plain;
    if (is_plain || !service.knows_tools()) {
        plain = as_plain_messages(task.messages, is_plain ? protocol->instructions() : "");
    }
    TemplateInput input = {.messages = plain.empty() ? task.messages : plain};
    if (has_tools && !is_plain) input.tools = task.tools.tools;
    input.most_bytes = static_cast<size_t>(service.limits().template_bytes);
    return encode_conversation(t, std::move(input), service.chat_template(), prefix);
}

void answer_task(Service& service, const Call& call, ChatTask task,
                 std::unique_ptr<AnswerForm> form) {
    const Tokenizer& t = service.tokenizer();
    const bool is_chat = !task.messages.empty();
    for (size_t i = 0; i < task.keep.size(); ++i) {
        std::vector<ChatMessage> raw = {{"user", task.raw}};
        if (!task.keep[i].empty() && keep_text(is_chat ? task.messages : raw, task.keep[i])) {
            task.raw = raw.front().parts;
            continue;
        }
        throw ApiError(400, cat("'memory.keep[", i, "]' is in no message"), "memory.keep");
    }
    Work work;
    work.prompt = prompt_of(service, task);
    std::shared_ptr<const ToolProtocol> protocol;
    AnswerOptions answer = task.answer;
    if (is_chat) {
        protocol = service.protocol(task.tools);
        if (protocol != nullptr) {
            for (const std::string& s : protocol->stops()) answer.stop.push_back(s);
            if (!task.tools.tools.empty()) {
                answer.sampling.grammar = protocol->grammar();
                answer.sampling.triggers = protocol->triggers();
            }
        }
    }
    if (!task.schema.empty()) {
        if (!answer.sampling.grammar.empty()) {
            throw ApiError(400, "'tools' and a schema for the answer cannot both be asked for",
                           "tools");
        }
        answer.sampling.grammar = grammar_of_schema(task.schema);
    }
    for (int64_t i = 0; i < task.n_answers; ++i) {
        work.writers.push_back(
            std::make_unique<AnswerWriter>(&t, service.engine().config().n_vocab, answer));
        ++answer.sampling.seed;
    }
    work.memory = task.memory;
    work.most_tokens = answer.max_tokens;
    work.owner = call.owner;
    work.session = task.session;
    work.from = task.from;
    work.id = task.id;
    work.is_private = task.is_private;
    work.detail = task.detail;
    work.transcript = {.title = title_of(task.messages),
                       .messages = task.messages_json,
                       .n_messages = task.n_messages,
                       .answer = [protocol](const GenerateResult& r) {
                           AnswerReader reader(protocol);
                           static_cast<void>(reader.add(r.text));
                           static_cast<void>(reader.finish());
                           return json_text(message_json(reader.parsed()));
                       }};
    const auto n = work.writers.size();
    const auto run =
        std::make_shared<AnswerRun>(service, call, std::move(form), protocol, n, task.is_streamed);
    ++service.metrics().requests;
    run->watch(service.scheduler().submit(std::move(work), run));
}

}  // namespace palimpsest
