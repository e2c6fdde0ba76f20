#pragma once

#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "cli/file_flags.h"
#include "cli/sampling_flags.h"
#include "engine/runtime.h"
#include "palimpsest/conversation.h"
#include "palimpsest/latent_context.h"

namespace palimpsest {

/// Flags of every command that runs a model.
struct ModelFlags {
    EngineOptions engine;
    MemoryChoice memory;
    LatentOptions latent;  // no adapter: documents are read as text
};

/// What a command with these flags reads: for files that it writes without a flag of theirs.
std::vector<NamedFile> files_read(const ModelFlags& flags);

/// Declares -m/--model and --sidecar alone.
void add_model_flag(CLI::App& command, ModelFlags& flags);
/// Declares --reading alone.
void add_reading_flag(CLI::App& command, ModelFlags& flags);
/// Declares all of them but those of what is forgotten (memory_flags.h).
void add_model_flags(CLI::App& command, ModelFlags& flags);

/// Declares --prefix and --prefix-gate.
void add_prefix_flags(CLI::App& command, ModelFlags& flags);

/// Declares --latent, --encoder, --latent-ratio and --latent-cache.
void add_latent_flags(CLI::App& command, ModelFlags& flags);
/// What they come to; nullopt without --latent.
std::optional<LatentContext> open_latent(const Engine& engine, const ModelFlags& flags);

/// What the encoder did, for JSON.
[[nodiscard]] nlohmann::json encoding_json(const LatentContext::Usage& usage);

/// What flags come to: a plan for a memory, whose notes have been written to standard error. Throws
/// as the parts do.
MemoryPlan plan_memory(const Runtime& engine, const MemoryChoice& choice);

/// The model's file: the one that is named; with --latent and none named, the `decoder.gguf` beside
/// the adapter, if there is one; else the one that set-up fetched.
std::string model_path_of(const ModelFlags& flags);

/// The model, once the choice of a memory was looked at: what contradicts itself costs no loading.
/// With --latent and no model named, it is the `decoder.gguf` beside the adapter, if there is one.
Engine open_engine(const ModelFlags& flags);

/// `latent` may be nullptr.
Conversation begin_conversation(const Engine& engine, const ModelFlags& flags,
                                const AnswerFlags& answer, bool is_raw,
                                const LatentContext* latent = nullptr);

/// What a user should know, to standard error.
void write_notes(const std::vector<std::string>& notes);
void write_note(const std::string& note);

/// The whole of a file, or of standard input for "-". Throws kNotFound.
std::string read_file(const std::string& path);

/// Writes a whole file, or standard output for "-". Throws kUnwritable, or OutputError.
void write_file(const std::string& path, const std::string& content);

/// Flags of text that goes to the model.
struct TextFlags {
    bool replace_invalid = false;
};
void add_text_flags(CLI::App& command, TextFlags& flags);
/// `text`, with what cannot be read replaced if the flags say so.
std::string prepared(std::string text, const TextFlags& flags, const Tokenizer& tokenizer);

}  // namespace palimpsest
