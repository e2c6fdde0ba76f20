#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "engine/session.h"
#include "memory/cache/memories.h"
#include "model/load.h"

namespace palimpsest {

/// Flags of every command that runs a model.
struct ModelFlags {
    std::string model;  // path; default_model_path() if not given
    int threads = 0;    // 0: as many as there are processors
    int64_t context = 0;
    int64_t chunk = 512;
    std::string entries = "f16";
    std::string attention = "fused";
    std::vector<std::string> prefixes;  // files of prefix memories, used together
    bool prefix_gate = false;
    std::string sidecar;  // trained weights for evicting; empty: those beside the model, if any
};

/// Declares -m/--model alone.
void add_model_flag(CLI::App& command, ModelFlags& flags);
/// Declares all of them.
void add_model_flags(CLI::App& command, ModelFlags& flags);

/// Declares --prefix and --prefix-gate.
void add_prefix_flags(CLI::App& command, ModelFlags& flags);

/// A model, a backend and a session over them, made from flags.
struct Engine {
    std::unique_ptr<Backend> backend;
    std::unique_ptr<LoadedModel> loaded;
    std::unique_ptr<Session> session;
    /// Those of --prefix, in order.
    std::vector<std::shared_ptr<const PrefixDocument>> prefixes = {};
};

/// Throws as the parts do; warns on standard error about a context beyond the trained length.
Engine make_engine(const ModelFlags& flags, EvictionOptions eviction = {});

/// The model alone, as make_engine() opens it; no session.
Engine load_engine(const ModelFlags& flags);

/// What --prefix and --prefix-gate name, made for that model. Throws as read_prefixes_for() does,
/// and kInvalidArgument for a gate without an exact prefix.
PrefixUse prefix_use(const ModelFlags& flags, const LoadedModel& loaded);

/// Threads that `flags` mean.
[[nodiscard]] int thread_count(const ModelFlags& flags);

/// The whole of a file, or of standard input for "-". Throws kNotFound.
std::string read_file(const std::string& path);

/// Writes a whole file, or standard output for "-". Throws OutputError.
void write_file(const std::string& path, const std::string& content);

/// Flags of text that goes to the model.
struct TextFlags {
    bool replace_invalid = false;
};
void add_text_flags(CLI::App& command, TextFlags& flags);
/// `text`, with what cannot be read replaced if the flags say so.
std::string prepared(std::string text, const TextFlags& flags, const Tokenizer& tokenizer);

}  // namespace palimpsest
