// palimpsest inspect: a model file's facts, and what fits into this machine.

#include <algorithm>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <span>
#include <variant>

#include "bench/process.h"
#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "model/families.h"
#include "text/json_text.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

struct InspectFlags {
    ModelFlags model;
    bool json = false;
};

struct EntryCost {
    const char* type;
    size_t bytes_per_token;  // that grow with the context
    size_t window_bytes;     // of layers with a window: grow only up to it
    int64_t fits;            // tokens of context in the memory available now; -1: cannot be said
};

/// Types of the tensors, with the bytes each takes.
std::map<std::string, size_t> bytes_by_type(const GgufFile& file) {
    std::map<std::string, size_t> by_type;
    for (const GgufTensor& t : file.tensors()) by_type[ggml_type_name(t.type)] += t.data.size();
    return by_type;
}

int64_t count_parameters(const GgufFile& file) {
    int64_t n = 0;
    for (const GgufTensor& t : file.tensors()) {
        n += t.shape[0] * t.shape[1] * t.shape[2] * t.shape[3];
    }
    return n;
}

/// Of the layers that attend; empty if none does.
std::vector<AttentionLayer> attending_layers(const MemoryShape& shape) {
    std::vector<AttentionLayer> layers;
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        const LayerShape layer = shape.layer(i);
        if (const auto* of = std::get_if<AttentionLayer>(&layer)) layers.push_back(*of);
    }
    return layers;
}

/// What recurrent layers keep, however much is read.
size_t state_bytes(const MemoryShape& shape) {
    int64_t n = 0;
    for (int64_t i = 0; i < shape.n_layer; ++i) {
        const LayerShape layer = shape.layer(i);
        if (const auto* of = std::get_if<RecurrentLayer>(&layer)) {
            n += of->n_head * of->n_rows * of->n_columns + of->n_channels * of->n_before;
        }
    }
    return static_cast<size_t>(n) * sizeof(float);
}

EntryCost entry_cost(std::span<const AttentionLayer> layers, ggml_type type, size_t for_context) {
    EntryCost cost = {
        .type = ggml_type_name(type), .bytes_per_token = 0, .window_bytes = 0, .fits = -1};
    for (const AttentionLayer& of : layers) {
        const size_t bytes = 2 * static_cast<size_t>(of.n_head_kv) * ggml_row_size(type, of.d_head);
        if (of.window == 0) cost.bytes_per_token += bytes;
        cost.window_bytes += bytes * static_cast<size_t>(of.window);
    }
    if (for_context > cost.window_bytes && cost.bytes_per_token > 0) {
        cost.fits = static_cast<int64_t>((for_context - cost.window_bytes) / cost.bytes_per_token);
    }
    return cost;
}

std::vector<EntryCost> entry_costs(std::span<const AttentionLayer> layers, size_t for_context) {
    std::vector<EntryCost> costs;
    for (const ggml_type type : {GGML_TYPE_F32, GGML_TYPE_F16, GGML_TYPE_Q8_0}) {
        const bool is_whole = std::ranges::all_of(
            layers, [&](const auto& of) { return of.d_head % ggml_blck_size(type) == 0; });
        if (is_whole && !layers.empty()) costs.push_back(entry_cost(layers, type, for_context));
    }
    return costs;
}

struct Facts {
    std::string path;
    const LoadedModel& loaded;
    std::vector<EntryCost> costs;  // of layers that attend
    size_t states;                 // bytes, of those that are recurrent
    int64_t n_attending;           // layers
    size_t available;

    [[nodiscard]] int64_t window_layers() const {
        return std::ranges::count_if(loaded.config().windows, [](int64_t w) { return w > 0; });
    }
    [[nodiscard]] int64_t window() const {
        const auto& w = loaded.config().windows;
        return w.empty() ? 0 : *std::ranges::max_element(w);
    }
};

nlohmann::json to_json(const Facts& f) {
    const ModelConfig& c = f.loaded.config();
    nlohmann::json entries = nlohmann::json::object();
    for (const EntryCost& e : f.costs) {
        entries[e.type] = {{"bytes_per_token", e.bytes_per_token},
                           {"window_bytes", e.window_bytes},
                           {"tokens_that_fit", e.fits}};
    }
    const Tokenizer* t = f.loaded.tokenizer();
    return {{"path", f.path},
            {"architecture", c.architecture},
            {"name", c.name},
            {"file_bytes", f.loaded.file().total_bytes()},
            {"parameters", count_parameters(f.loaded.file())},
            {"tensor_bytes", bytes_by_type(f.loaded.file())},
            {"layers", c.n_layer},
            {"width", c.n_embd},
            {"feed_forward", c.n_ff},
            {"experts",
             {{"count", c.experts.n},
              {"used", c.experts.n_used},
              {"width", c.experts.n_ff},
              {"shared_width", c.experts.n_ff_shared}}},
            {"heads", c.n_head},
            {"kv_heads", c.n_head_kv},
            {"head_size", c.d_head},
            {"trained_context", c.n_ctx_train},
            {"window", f.window()},
            {"window_layers", f.window_layers()},
            {"rope", {{"base", c.rope_base}, {"scaling", c.rope_scaling.type}}},
            {"vocabulary", c.n_vocab},
            {"tokenizer", t == nullptr ? nlohmann::json() : nlohmann::json(t->kind())},
            {"chat_template", t != nullptr && t->has_chat_template()},
            {"weights",
             {{"mapped_bytes", f.loaded.weights().mapped_bytes()},
              {"repacked_bytes", f.loaded.weights().copied_bytes()}}},
            {"entries", entries},
            {"state_bytes", f.states},
            {"attending_layers", f.n_attending},
            {"reading",
             {{"name", f.loaded.reading().name},
              {"least_rows", f.loaded.reading().least_rows},
              {"why", f.loaded.reading().why}}},
            {"available_memory_bytes", f.available}};
}

std::string line(std::string_view label, const std::string& value) {
    return cat("  ", label, std::string(16 - label.size(), ' '), printable(value), "\n");
}

std::string file_facts(const Facts& f) {
    const GgufFile& file = f.loaded.file();
    std::string types;
    for (const auto& [type, bytes] : bytes_by_type(file)) {
        types += cat(types.empty() ? "" : ", ", type, " ", human_bytes(bytes));
    }
    std::string out = line("file", cat(f.path, ", ", human_bytes(file.total_bytes())));
    out += line("weights", cat(human_count(count_parameters(file)), " parameters: ", types));
    const size_t copied = f.loaded.weights().copied_bytes();
    out +=
        line("in memory",
             cat(human_bytes(f.loaded.weights().mapped_bytes()), " used where the file is mapped",
                 copied > 0 ? cat(", ", human_bytes(copied), " repacked for this processor") : ""));
    out += line("reading", to_string(f.loaded.reading()));
    return out;
}

std::string model_facts(const Facts& f) {
    const ModelConfig& c = f.loaded.config();
    std::string layers = cat(c.n_layer, ", width ", c.n_embd);
    const ExpertSizes& e = c.experts;
    if (e.n > 0) {
        layers += cat(", ", e.n, " experts of ", e.n_ff, ", ", e.n_used, " a token");
        if (e.n_ff_shared > 0) layers += cat(" and one of ", e.n_ff_shared, " for all");
    } else if (c.n_ff > 0) {
        layers += cat(", feed-forward ", c.n_ff);
    }
    if (f.n_attending < c.n_layer) layers += cat("; ", c.n_layer - f.n_attending, " are recurrent");
    std::string out = line("layers", layers);
    if (f.n_attending > 0) {
        out += line("heads",
                    cat(c.n_head, " sharing ", c.n_head_kv, " key-value heads of ", c.d_head));
    }
    std::string context = cat(human_count(c.n_ctx_train), " tokens in training");
    if (f.window() > 0) {
        context += cat("; ", f.window_layers(), " layers see the last ", human_count(f.window()));
    }
    if (c.rope_scaling.type != "none") {
        context += cat("; ", c.rope_scaling.type, " scaling by ", c.rope_scaling.factor);
    }
    out += line("context", context);
    const Tokenizer* t = f.loaded.tokenizer();
    out += line("vocabulary",
                cat(human_count(c.n_vocab), " tokens, ",
                    t == nullptr ? "no tokenizer (runs from ids)" : t->kind(),
                    t != nullptr && t->has_chat_template()
                        ? cat(", with a chat template", has_jinja() ? "" : " (no Jinja here)")
                        : ""));
    return out;
}

std::string cost_facts(const Facts& f) {
    const ModelConfig& c = f.loaded.config();
    std::string out;
    if (f.states > 0) {
        out += cat("\n  Recurrent states take ", human_bytes(f.states),
                   ", however long the context is.\n");
    }
    if (f.costs.empty()) return out;
    out += cat("\n  A token of context takes, and ", human_bytes(f.available),
               " available now hold (weights and working memory set aside):\n");
    for (const EntryCost& e : f.costs) {
        const std::string fits =
            e.fits < 0 ? ""
                       : cat(human_count(e.fits), " tokens",
                             e.fits >= c.n_ctx_train ? ", more than the trained context" : "");
        const std::string grows = human_bytes(e.bytes_per_token);
        out += cat("    ", e.type, std::string(6 - std::string_view(e.type).size(), ' '), grows,
                   std::string(12 - std::min<size_t>(11, grows.size()), ' '), fits,
                   e.window_bytes > 0
                       ? cat(" (and at most ", human_bytes(e.window_bytes), " for the windows)")
                       : "",
                   "\n");
    }
    return out;
}

void inspect(const InspectFlags& f) {
    const std::string path = model_path(f.model.engine);
    const Backend backend(thread_count(f.model.engine));
    const LoadedModel loaded(path, backend);
    // A tenth stays free: activations, and whatever else the machine is doing.
    const size_t available = available_memory_bytes();
    const size_t weights = loaded.weights().mapped_bytes() + loaded.weights().copied_bytes();
    const size_t for_context = available > weights ? (available - weights) / 10 * 9 : 0;
    const MemoryShape shape = loaded.config().memory_shape();
    const std::vector<AttentionLayer> attending = attending_layers(shape);
    const size_t states = state_bytes(shape);
    const Facts facts = {
        .path = path,
        .loaded = loaded,
        .costs = entry_costs(attending, for_context - std::min(for_context, states)),
        .states = states,
        .n_attending = std::ssize(attending),
        .available = available};
    if (f.json) return write_output(json_text(to_json(facts), 2) + "\n");
    write_listing(cat(printable(loaded.config().name), " (", loaded.config().architecture, ": ",
                      find_family(loaded.config().architecture).summary, ")\n", file_facts(facts),
                      model_facts(facts), cost_facts(facts)));
}

}  // namespace

void add_inspect(CLI::App& command) {
    auto f = std::make_shared<InspectFlags>();
    reads_model(command.add_option("model,-m,--model", f->model.engine.model,
                                   "GGUF file (default: the one set-up fetched)"));
    command.add_flag("--json", f->json, "print one JSON object");
    command.callback([f] { inspect(*f); });
}

}  // namespace palimpsest
