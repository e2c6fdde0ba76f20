#include "cli/setup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <fstream>
#include <system_error>

#include "cli/memory_flags.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "engine/default_model.h"
#include "engine/rehearsal.h"
#include "memory/prefix/prefix_file.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

[[noreturn]] void cannot_read(const std::string& path, int error) {
    throw Error(ErrorCode::kNotFound,
                cat("cannot read '", path, "': ", std::generic_category().message(error)));
}

std::string read_descriptor(const std::string& path, int fd) {
    std::string text;
    std::array<char, 1 << 16> part{};
    while (true) {
        const ssize_t n = read(fd, part.data(), part.size());
        if (n < 0 && errno == EINTR && !interrupted()) continue;
        if (n < 0) cannot_read(path, errno);
        if (n == 0) return text;
        text.append(part.data(), static_cast<size_t>(n));
    }
}

}  // namespace

void add_model_flag(CLI::App& command, ModelFlags& flags) {
    command.add_option("-m,--model", flags.model, "GGUF file (default: the one set-up fetched)");
    command.add_option("--sidecar", flags.sidecar,
                       "trained weights for what is evicted (default: MODEL.evict.gguf beside "
                       "the model, if it is there)");
}

void add_model_flags(CLI::App& command, ModelFlags& flags) {
    add_model_flag(command, flags);
    command.add_option("-t,--threads", flags.threads, "threads (default: all processors)")
        ->check(CLI::Range(1, GGML_MAX_N_THREADS));
    command
        .add_option("-c,--context", flags.context,
                    "positions the memory can hold (default: what the model was trained for)")
        ->check(CLI::PositiveNumber);
    command.add_option("--chunk", flags.chunk, "tokens read in one step")
        ->check(CLI::Range(int64_t{1}, int64_t{65536}))
        ->capture_default_str();
    command.add_option("--entries", flags.entries, "how keys and values are stored")
        ->check(CLI::IsMember({"f32", "f16", "q8_0"}))
        ->capture_default_str();
    command
        .add_option("--attention", flags.attention,
                    "our kernel, or ggml's operations (slow, for checking)")
        ->check(CLI::IsMember({"fused", "reference"}))
        ->capture_default_str();
}

void add_prefix_flags(CLI::App& command, ModelFlags& flags) {
    const char* const group = "Prefix";
    command
        .add_option("--prefix", flags.prefixes,
                    "a prefix memory that stands before everything (repeatable; 'palimpsest prefix "
                    "build' makes one)")
        ->allow_extra_args(false)
        ->group(group);
    command
        .add_flag("--prefix-gate", flags.prefix_gate,
                  "where a query is unlike any trace, read the exact prefix, if the file has it")
        ->group(group);
}

int thread_count(const ModelFlags& flags) {
    return flags.threads > 0 ? flags.threads : Backend::available_threads();
}

namespace {

/// What is used if only a budget is named: what the model's trained weights are for, or the usual.
void use_learned(const ModelFlags& flags, const Engine& e, EvictionOptions& eviction) {
    if (eviction.policy == "full") return;
    eviction.learned = load_sidecar(flags.sidecar, *e.loaded, *e.backend);
    if (eviction.learned && !eviction.learned->warning().empty()) {
        write_message(cat("palimpsest: ", eviction.learned->warning(), "\n"));
    }
    const std::string chosen = choose_memory(eviction);
    if (!chosen.empty()) write_message(cat("palimpsest: ", chosen, "\n"));
}

}  // namespace

Engine load_engine(const ModelFlags& flags) {
    const std::string path = flags.model.empty() ? default_model_path() : flags.model;
    Engine e;
    e.backend = std::make_unique<Backend>(thread_count(flags));
    try {
        e.loaded = std::make_unique<LoadedModel>(path, *e.backend);
    } catch (const Error& error) {
        if (!flags.model.empty() || error.code() != ErrorCode::kNotFound) throw;
        throw Error(ErrorCode::kNotFound,
                    cat(error.what(), "; fetch the default model with 'make setup', or name one ",
                        "with --model"));
    }
    return e;
}

PrefixUse prefix_use(const ModelFlags& flags, const LoadedModel& loaded) {
    PrefixUse use = {.documents = read_prefixes_for(loaded.file(), flags.prefixes),
                     .has_gate = flags.prefix_gate};
    const bool has_exact =
        std::ranges::any_of(use.documents, [](const auto& d) { return d->has_exact(); });
    require(!flags.prefix_gate || has_exact,
            "--prefix-gate needs a prefix memory that was built with --keep-exact");
    return use;
}

Engine make_engine(const ModelFlags& flags, EvictionOptions eviction) {
    Engine e = load_engine(flags);
    const PrefixUse prefix = prefix_use(flags, *e.loaded);
    e.prefixes = prefix.documents;
    const ModelConfig& config = e.loaded->config();
    const int64_t n_ctx = flags.context > 0
                              ? flags.context
                              : std::max<int64_t>(1, config.n_ctx_train - prefix.n_positions());
    if (const int64_t n = n_ctx + prefix.n_positions(); n > config.n_ctx_train) {
        write_message(cat("palimpsest: a context of ", n, " is beyond the ", config.n_ctx_train,
                          " positions this model was trained for; answers ",
                          "past that make little sense\n"));
    }
    use_learned(flags, e, eviction);
    eviction.n_chunk = flags.chunk;
    eviction.output_weights = [loaded = e.loaded.get()](int64_t layer) {
        return loaded->output_projection(layer);
    };
    const KvCacheOptions options = {
        .n_ctx = n_ctx,
        .entries = entry_type(flags.entries),
        .path = flags.attention == "reference" ? AttentionPath::kReference : AttentionPath::kFused,
        .eviction = std::move(eviction),
        .prefix = prefix};
    SessionOptions session = {.n_chunk = flags.chunk};
    if (const Tokenizer* t = e.loaded->tokenizer(); t != nullptr) {
        session.rehearsal = rehearsal_texts(*t);
    }
    e.session = std::make_unique<Session>(
        e.loaded->model(), *e.backend,
        make_memory("kv", *e.backend, config.memory_shape(), options), session);
    return e;
}

std::string read_file(const std::string& path) {
    if (path == "-") return read_descriptor("standard input", STDIN_FILENO);
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) cannot_read(path, errno);
    struct stat info {};
    if (fstat(fd, &info) == 0 && S_ISDIR(info.st_mode)) {
        close(fd);
        cannot_read(path, EISDIR);
    }
    try {
        std::string text = read_descriptor(path, fd);
        close(fd);
        return text;
    } catch (...) {
        close(fd);
        throw;
    }
}

void write_file(const std::string& path, const std::string& content) {
    if (path == "-") return write_output(content);
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file.write(content.data(), std::ssize(content));
    file.close();
    if (!file) throw OutputError(cat("'", path, "': ", std::generic_category().message(errno)));
}

void add_text_flags(CLI::App& command, TextFlags& flags) {
    command.add_flag("--replace-invalid-utf8", flags.replace_invalid,
                     "put U+FFFD for bytes that are not UTF-8 and for characters the model has "
                     "no token for, instead of refusing the text");
}

std::string prepared(std::string text, const TextFlags& flags, const Tokenizer& tokenizer) {
    if (!flags.replace_invalid) return text;
    return tokenizer.replace_inexpressible(replace_invalid_utf8(text));
}

}  // namespace palimpsest
