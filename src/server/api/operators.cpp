// What those ask who run the server: /health, /metrics, /props, /tokenize, /detokenize, and the
// text of a PDF.

#include <algorithm>

#include "core/error.h"
#include "memory/attention/entry_store.h"
#include "memory/cache/memories.h"
#include "memory/policy/policies.h"
#include "memory/residue/residues.h"
#include "server/api/answer_form.h"
#include "server/api/routes.h"
#include "server/pdf_text.h"
#include "server/service.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

Json policies_json(Service& service) {
    // What the weights beside the model allow.
    const auto learned = service.ask([&](SequenceTable& table) {
        MemoryChoice choice = service.options().memory;
        if (choice.budget.empty()) choice.budget = "1024";
        return table.plan(choice).options.supplies.learned;
    });
    Json all = Json::array();
    for (const PolicyKind& kind : policy_kinds()) {
        const bool is_there =
            !kind.is_learned() || (learned != nullptr && kind.has_weights(*learned));
        all.push_back({{"name", kind.name},
                       {"summary", kind.summary},
                       {"needs_weights", kind.is_learned()},
                       {"available", is_there}});
    }
    return all;
}

}  // namespace

void handle_health(Service& service, const Call& call) {
    if (service.is_draining()) return call.answer({{"status", "draining"}}, 503);
    Json state = {{"status", "ok"}};
    // Answers go on without the store, so this is no reason to send clients elsewhere.
    if (!service.options().sessions.empty()) {
        const Metrics& m = service.metrics();
        state["store"] = m.is_store_down ? "down" : "ok";
        state["unwritten_sessions"] = m.sessions_unwritten.load();
    }
    call.answer(state);
}

void handle_metrics(Service& service, const Call& call) {
    call.exchange->answer({.body = service.metrics().text(service.http().n_connections()),
                           .content_type = "text/plain; version=0.0.4; charset=utf-8"});
}

void handle_props(Service& service, const Call& call) {
    const ModelConfig& c = service.engine().config();
    const MemoryChoice& m = service.options().memory;
    const MemoryShape& shape = service.engine().shape();
    const bool attends = shape.n_head_kv > 0;
    Json residues = Json::array();
    for (const ResidueKind& kind : residue_kinds()) {
        residues.push_back({{"name", kind.name}, {"summary", kind.summary}});
    }
    Json prefixes = Json::array();
    for (const auto& [name, path] : service.prefixes().named()) {
        int64_t n = 0;
        size_t bytes = 0;
        for (const auto& d : service.prefixes().of(path)) {
            n += std::ssize(d->header().tokens);
            bytes += d->held_bytes();
        }
        prefixes.push_back({{"name", name}, {"tokens", n}, {"bytes", bytes}});
    }
    Json limits = Json::object();
    for (const LimitKind& kind : limit_kinds()) {
        std::string name(kind.name);
        std::ranges::replace(name, '-', '_');
        limits[name] = service.limits().*kind.value;
    }
    call.answer({{"model", service.model_name()},
                 {"architecture", c.architecture},
                 {"context", m.context > 0 ? m.context : c.n_ctx_train},
                 {"version", service.options().version},
                 {"memory",
                  {{"budget", m.budget},
                   {"policy", m.policy},
                   {"residue", m.residue},
                   {"entries", m.entries},
                   {"limit_bytes", service.memory_bytes()}}},
                 {"policies", policies_json(service)},
                 {"residues", residues},
                 {"prefixes", prefixes},
                 {"bytes_per_token", attends ? bytes_of_all(shape, entry_type(m.entries), 1) : 0},
                 {"temperature", service.options().answer.sampling.temperature},
                 {"max_tokens", service.options().answer.max_tokens},
                 {"pdf", has_pdf_text()},
                 {"sessions_on_disk", !service.options().sessions.empty()},
                 {"chat_template", service.tokenizer().chat_template_text()},
                 {"limits", limits}});
}

void handle_tokenize(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    const auto text = f.text("content");
    if (!text) f.refuse("content", "is missing");
    std::vector<TokenId> tokens;
    if (f.boolean("add_special").value_or(false)) tokens = service.tokenizer().beginning();
    const std::vector<TokenId> more = service.tokenizer().encode(*text);
    tokens.insert(tokens.end(), more.begin(), more.end());
    if (!f.boolean("with_pieces").value_or(false)) return call.answer({{"tokens", tokens}});
    Json pieces = Json::array();
    for (const TokenId t : tokens) {
        pieces.push_back(
            {{"id", t}, {"piece", replace_invalid_utf8(service.tokenizer().visible(t))}});
    }
    call.answer({{"tokens", pieces}});
}

void handle_detokenize(Service& service, const Call& call) {
    const RequestJson body = call.body();
    const Fields f(body);
    std::string text;
    const RequestJson* tokens = f.list("tokens", int64_t{1} << 24);
    if (tokens == nullptr) f.refuse("tokens", "are missing");
    for (const RequestJson& t : *tokens) {
        if (!t.is_number_integer() || t.get<int64_t>() < 0 ||
            t.get<int64_t>() >= service.tokenizer().n_vocab()) {
            f.refuse("tokens", "have one that is no token of this model");
        }
        text += service.tokenizer().visible(t.get<TokenId>());
    }
    call.answer({{"content", replace_invalid_utf8(text)}});
}

void handle_document_text(Service& /*service*/, const Call& call) {
    if (!has_pdf_text()) {
        throw ApiError(501, "this machine cannot read PDF: install poppler's pdftotext");
    }
    call.answer({{"text", pdf_text(call.request().body)}});
}

}  // namespace palimpsest
