#include "cli/setup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "cli/file_flags.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "core/whole_file.h"
#include "engine/memory_choice.h"
#include "model/linear.h"
#include "model/load.h"
#include "text/utf8.h"

namespace palimpsest {

namespace {

[[noreturn]] void cannot_read(const std::string& path, int error) {
    throw Error(ErrorCode::kNotFound,
                cat("cannot read '", path, "': ", std::generic_category().message(error)));
}

constexpr size_t kMostBytes = size_t{1} << 30;  // of a text

std::string read_descriptor(const std::string& path, int fd) {
    std::string text;
    std::array<char, 1 << 16> part{};
    while (true) {
        const ssize_t n = read(fd, part.data(), part.size());
        if (n < 0 && errno == EINTR && !interrupted()) continue;
        if (n < 0) cannot_read(path, errno);
        if (n == 0) return text;
        text.append(part.data(), static_cast<size_t>(n));
        // Some devices never end.
        require(text.size() <= kMostBytes, "'", path, "' has more than ", kMostBytes, " bytes");
    }
}

}  // namespace

std::vector<NamedFile> files_read(const ModelFlags& flags) {
    const std::string model = model_path(flags.engine);
    const std::string& named = flags.memory.sidecar;
    std::vector<NamedFile> files = {{"the model", model},
                                    {"--sidecar", named.empty() ? sidecar_beside(model) : named}};
    if (!flags.latent.adapter.empty()) files.push_back({"--latent", flags.latent.adapter});
    if (!flags.latent.encoder.empty()) files.push_back({"--encoder", flags.latent.encoder});
    for (const std::string& path : flags.memory.prefixes) files.push_back({"--prefix", path});
    return files;
}

void add_model_flag(CLI::App& command, ModelFlags& flags) {
    reads_model(command.add_option("-m,--model", flags.engine.model,
                                   "GGUF file (default: the one set-up fetched)"));
    reads_sidecar(
        command.add_option("--sidecar", flags.memory.sidecar,
                           "trained weights for what is evicted (default: MODEL.evict.gguf beside "
                           "the model, if it is there)"));
}

void add_reading_flag(CLI::App& command, ModelFlags& flags) {
    command
        .add_option("--reading", flags.engine.reading,
                    "how weights and activations are multiplied: int8 takes weights as they are "
                    "stored; bf16 and f32 turn them into plain numbers first, for many rows; "
                    "quantised is ggml's own product; auto takes the fastest")
        ->check(CLI::IsMember(reading_names()))
        ->capture_default_str();
}

void add_model_flags(CLI::App& command, ModelFlags& flags) {
    add_model_flag(command, flags);
    command.add_option("-t,--threads", flags.engine.threads, "threads (default: all processors)")
        ->check(CLI::Range(1, GGML_MAX_N_THREADS));
    command
        .add_option("-c,--context", flags.memory.context,
                    "positions the memory can hold (default: what the model was trained for)")
        ->check(CLI::PositiveNumber);
    command.add_option("--chunk", flags.engine.chunk, "tokens read in one step")
        ->check(CLI::Range(int64_t{1}, int64_t{65536}))
        ->capture_default_str();
    add_reading_flag(command, flags);
    command.add_option("--entries", flags.memory.entries, "how keys and values are stored")
        ->check(CLI::IsMember({"f32", "f16", "q8_0"}))
        ->capture_default_str();
    command
        .add_option("--attention", flags.memory.attention,
                    "our kernel, or ggml's operations (slow, for checking)")
        ->check(CLI::IsMember({"fused", "reference"}))
        ->capture_default_str();
}

void add_prefix_flags(CLI::App& command, ModelFlags& flags) {
    const char* const group = "Prefix";
    reads_file(command.add_option(
                   "--prefix", flags.memory.prefixes,
                   "a prefix memory that stands before everything (repeatable; 'palimpsest prefix "
                   "build' makes one)"))
        ->allow_extra_args(false)
        ->group(group);
    command
        .add_flag("--prefix-gate", flags.memory.prefix_gate,
                  "where a query is unlike any trace, read the exact prefix, if the file has it")
        ->needs("--prefix")
        ->group(group);
}

void add_latent_flags(CLI::App& command, ModelFlags& flags) {
    const char* const group = "Latent context";
    LatentOptions& o = flags.latent;
    CLI::Option* latent = reads_file(command.add_option(
        "--latent", o.adapter,
        "read documents as latents, a few tokens in one: an adapter file, or a folder of them "
        "('palimpsest convert lclm' makes one); without --model, 'decoder.gguf' beside it runs"));
    latent->group(group);
    reads_file(command.add_option("--encoder", o.encoder,
                                  "the encoder (default: 'encoder.gguf' beside the adapter)"))
        ->needs(latent)
        ->group(group);
    command.add_option("--latent-ratio", o.ratio, "tokens in a latent, to choose in a folder by")
        ->check(CLI::Range(1, 1024))
        ->needs(latent)
        ->group(group);
    command
        .add_option("--latent-cache", o.cache,
                    "a folder where latents are kept, to be found again (at most 1 GiB)")
        ->needs(latent)
        ->group(group);
}

std::optional<LatentContext> open_latent(const Engine& engine, const ModelFlags& flags) {
    if (flags.latent.adapter.empty()) return std::nullopt;
    return std::optional<LatentContext>(std::in_place, engine, flags.latent);
}

nlohmann::json encoding_json(const LatentContext::Usage& u) {
    return {{"tokens", u.tokens_encoded},    {"tokens_found", u.tokens_found},
            {"latents", u.latents},          {"seconds", u.encoding_s},
            {"peak_bytes", u.encoder_bytes}, {"cache_bytes", u.cache_bytes}};
}

namespace {

/// Where a folder of latent context has it; empty if there is none.
std::string decoder_beside(const std::string& adapter) {
    namespace fs = std::filesystem;
    std::error_code error;
    const fs::path folder =
        fs::is_directory(adapter, error) ? fs::path(adapter) : fs::path(adapter).parent_path();
    const fs::path decoder = folder / "decoder.gguf";
    return fs::exists(decoder, error) ? decoder.string() : "";
}

EngineOptions engine_options(const ModelFlags& flags) {
    EngineOptions engine = flags.engine;
    if (engine.model.empty() && !flags.latent.adapter.empty()) {
        engine.model = decoder_beside(flags.latent.adapter);
    }
    return engine;
}

}  // namespace

void write_notes(const std::vector<std::string>& notes) {
    for (const std::string& note : notes) write_note(note);
}

void write_note(const std::string& note) {
    write_message(cat("palimpsest: ", printable_lines(note), "\n"));
}

MemoryPlan plan_memory(const Runtime& engine, const MemoryChoice& choice) {
    MemoryPlan plan = engine.plan(choice);
    write_notes(plan.notes);
    return plan;
}

std::string model_path_of(const ModelFlags& flags) { return model_path(engine_options(flags)); }

Engine open_engine(const ModelFlags& flags) {
    static_cast<void>(choose_eviction(flags.memory, nullptr));
    return Engine(engine_options(flags));
}

Conversation begin_conversation(const Engine& engine, const ModelFlags& flags,
                                const AnswerFlags& answer, bool is_raw,
                                const LatentContext* latent) {
    return Conversation(engine, {.memory = flags.memory,
                                 .system = answer.system,
                                 .chat_template = answer.chat_template,
                                 .is_raw = is_raw,
                                 .regions = latent == nullptr ? nullptr : latent->regions()});
}

std::string read_file(const std::string& path) {
    if (path == "-") return without_mark(read_descriptor("standard input", STDIN_FILENO));
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
        return without_mark(std::move(text));
    } catch (...) {
        close(fd);
        throw;
    }
}

void write_file(const std::string& path, const std::string& content) {
    if (path == "-") return write_output(content);
    write_whole_file(path, content);
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
