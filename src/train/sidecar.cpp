#include "train/sidecar.h"

#include <array>
#include <optional>

#include "core/error.h"
#include "train/activations.h"

namespace palimpsest {

namespace {

/// "gate_in.weight" of "blk.3.gate_in.weight"; other names as they are.
std::string_view name_in_layer(std::string_view name) {
    if (!name.starts_with("blk.")) return name;
    const size_t dot = name.find('.', 4);
    return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

/// Keys that other parts of a sidecar may have.
constexpr auto kKeys = std::to_array<std::string_view>(
    {"evict.indexer.head_count",   "evict.indexer.key_length",    "evict.indexer.norm",
     "evict.indexer.norm_epsilon", "evict.indexer.activation",    "evict.indexer.causal",
     "evict.indexer.group_count",  "evict.indexer.allocator",     "evict.indexer.recent_count",
     "evict.memory.form",          "evict.memory.feature_length", "evict.memory.epsilon",
     "evict.memory.eta",           "evict.memory.clip",           "evict.memory.gate",
     "evict.gate.mid_length",      "evict.gate.norm_epsilon",     "evict.indexer.unfinished",
     "evict.memory.unfinished",    "evict.gate.unfinished",       "general.name",
     "general.description"});

/// Tensors are copied as they are, so all parts of a file must agree in what they share.
void check_agrees(const GgufFile& file, const std::string& path, const MemoryShape& shape) {
    const bool is_adjacent = file.text("evict.channel_order").value_or("half_split") == "pairs";
    const int64_t n_sink = file.integer("evict.sink_count").value_or(kTrainedSinks);
    if (is_adjacent != shape.rotation.adjacent || n_sink != kTrainedSinks) {
        throw Error(ErrorCode::kUnsupported,
                    cat("the parts of '", path, "' cannot be kept beside others: ",
                        n_sink != kTrainedSinks
                            ? cat("they count on ", n_sink, " sinks, not ", kTrainedSinks)
                            : "their channels are in another order than the model's"));
    }
}

void keep_others(GgufWriter& to, const std::string& from, std::string_view part,
                 const MemoryShape& shape) {
    const GgufFile file = GgufFile::open(from);
    check_agrees(file, from, shape);
    const std::string keys = cat("evict.", part, ".");
    for (const std::string_view key : kKeys) {
        const GgufValue* value = file.find(key);
        if (value == nullptr || key.starts_with(keys)) continue;
        const auto text = value->type == GGUF_TYPE_STRING ? file.text(key) : std::nullopt;
        if (text) {
            to.set_text(std::string(key), *text);
        } else {
            to.set_copy(std::string(key), *value);
        }
    }
    const std::string tensors = cat(part, "_");
    for (const GgufTensor& t : file.tensors()) {
        if (!name_in_layer(t.name).starts_with(tensors)) to.add_copy(t);
    }
}

}  // namespace

void write_sidecar(const std::string& path, const std::string& keep_from, std::string_view part,
                   Objective& trained, const MemoryShape& shape, const BaseModel& base,
                   const std::string& unfinished) {
    GgufWriter file;
    file.set_text("general.architecture", "evict");
    file.set_text("evict.channel_order", shape.rotation.adjacent ? "pairs" : "half_split");
    if (!keep_from.empty()) keep_others(file, keep_from, part, shape);
    file.set_text("evict.base_architecture", base.architecture);
    file.set_text("evict.base_fingerprint", base.fingerprint);
    file.set_count("evict.block_count", static_cast<uint32_t>(shape.n_layer));
    file.set_count("evict.sink_count", static_cast<uint32_t>(kTrainedSinks));
    trained.describe(file);
    if (!unfinished.empty()) file.set_text(cat("evict.", part, ".unfinished"), unfinished);
    for (const Parameter& p : trained.parameters()) {
        file.add(p.name, p.shape, p.value, p.stored);
    }
    file.write(path);
}

}  // namespace palimpsest
