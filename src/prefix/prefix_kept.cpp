#include "prefix/prefix_kept.h"

#include <algorithm>
#include <optional>
#include <sstream>

#include "core/error.h"
#include "core/sealed_file.h"
#include "memory/binary_stream.h"
#include "prefix/prefix_mass.h"

namespace palimpsest {

namespace fs = std::filesystem;

namespace {

/// Weights that an earlier run left. Damaged ones are as good as none: they are written anew.
std::optional<EntryMass> saved_mass(const PrefixRuntime& with, const fs::path& path,
                                    const ExactPrefix& exact) {
    try {
        std::optional<std::string> saved = read_sealed(path.string());
        if (!saved) return std::nullopt;
        std::istringstream in(std::move(*saved));
        EntryMass mass(static_cast<size_t>(exact.shape().n_layer * exact.shape().n_head_kv));
        for (size_t head = 0; head < mass.size(); ++head) {
            const int64_t layer = static_cast<int64_t>(head) / exact.shape().n_head_kv;
            const int64_t n = exact.shape().window(layer) > 0 ? 0 : exact.size();
            mass[head] = take_all<float>(in, n);
            if (std::ssize(mass[head]) != n) return std::nullopt;
        }
        return mass;
    } catch (const Error& e) {
        with.note(cat(e.what(), "; the prefix's entries are weighed again"));
        return std::nullopt;
    }
}

void save_mass(const EntryMass& mass, const fs::path& path) {
    std::ostringstream out;
    out.exceptions(std::ios::badbit);  // no memory is said, not left out
    for (const std::vector<float>& of : mass) put_all(out, of);
    write_sealed(path.string(), std::move(out).str());
}

/// At most so many of the traces, spread over all of them: more say little more.
std::vector<TraceTokens> some_of(std::span<const TraceTokens> traces) {
    constexpr size_t kMost = 256;
    const size_t step = (traces.size() + kMost - 1) / kMost;
    std::vector<TraceTokens> some;
    for (size_t i = 0; i < traces.size(); i += step) some.push_back(traces[i]);
    return some;
}

EntryMass weigh(const PrefixRuntime& with, const ExactPrefix& exact, const KeptSearch& search) {
    if (search.by == KeptBy::kTraces) {
        return traced_mass(with, exact, some_of(search.traces), Reduce::kSum);
    }
    return traced_mass(with, exact, repetitions(with, search.prefix), Reduce::kMax);
}

}  // namespace

std::string_view to_string(KeptBy by) { return by == KeptBy::kTraces ? "traces" : "repetition"; }

int64_t n_keeping_layers(const MemoryShape& shape) {
    int64_t n = 0;
    for (int64_t layer = 0; layer < shape.n_layer; ++layer) n += shape.window(layer) == 0 ? 1 : 0;
    return n;
}

std::string why_none_is_kept(const PrefixRuntime& with, const PrefixText& text, int64_t n_chunks,
                             KeptBy by) {
    if (n_chunks > 1) return "a prefix in pieces keeps no entries; leave --kept out";
    if (n_keeping_layers(with.engine.shape()) == 0) {
        return "a model whose layers all have a sliding window keeps no entries of a prefix; leave "
               "--kept out";
    }
    const int64_t n = std::ssize(text.tokens());
    if (by == KeptBy::kTraces || room_to_repeat(with, n) > 0) return "";
    return cat(
        "the prefix has ", n, " tokens, and this model sees ", with.engine.config().n_ctx_train,
        ": there is no room to repeat it behind itself; ",
        "let traces choose what is kept with --kept-by traces, or keep nothing with --kept 0");
}

std::vector<std::vector<int32_t>> find_kept(const PrefixRuntime& with, const ExactPrefix& exact,
                                            const KeptSearch& search, int64_t n) {
    // Which traces may be looked at depends on how many are held out; a repetition on none.
    const fs::path path = search.folder / (search.by == KeptBy::kTraces
                                               ? cat("weights_by_", search.traces.size(), "_traces")
                                               : std::string("weights_by_repetition"));
    std::optional<EntryMass> mass = saved_mass(with, path, exact);
    if (!mass) {
        mass = weigh(with, exact, search);
        save_mass(*mass, path);
    }
    return heaviest_of_all(*mass, n);
}

}  // namespace palimpsest
