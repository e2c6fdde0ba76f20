#pragma once

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "core/error.h"
#include "prefix/prefix_build.h"
#include "support/golden.h"
#include "support/task_files.h"
#include "support/tiny_model.h"

namespace palimpsest::testing {

/// Of the error that `work` throws; kInternal if it throws none.
inline ErrorCode code_of(const std::function<void()>& work) {
    try {
        work();
    } catch (const Error& e) {
        return e.code();
    }
    return ErrorCode::kInternal;
}

/// A tiny model with a vocabulary, and requests behind a text of rules.
class TinyBuild : public ::testing::Test {
 protected:
    explicit TinyBuild(const TinyModelOptions& options = {.n_layer = 2, .n_ctx = 400})
        : model_file(speaking_model_bytes(options), ".gguf"), loaded(model_file.path(), backend) {}

    [[nodiscard]] PrefixRuntime with() { return {.engine = engine}; }
    [[nodiscard]] PrefixText text_of(const std::string& text, bool is_raw = true) {
        return {loaded.require_tokenizer(), text, is_raw};
    }

    static std::string rules(int n) {
        std::string text;
        for (int i = 0; i < n; ++i) text += cat("Rule ", i, ": pay ", i * 7, " in room ", i, ".\n");
        return text;
    }
    static std::vector<TraceText> requests(int n) {
        std::vector<TraceText> traces;
        traces.reserve(static_cast<size_t>(n));
        for (int i = 0; i < n; ++i) {
            traces.push_back({cat("What does rule ", i, " say?"), cat("Pay ", i * 7, ".")});
        }
        return traces;
    }

    PrefixBuild build(const PrefixText& text, PrefixBuildOptions o) {
        o.name = "rules";
        o.is_forced = true;
        const TemporaryFolder folder;
        o.work_folder = folder.path();
        return build_prefix(with(), text, requests(16), o);
    }

    TemporaryFile model_file;
    Backend backend{2};
    LoadedModel loaded;
    Runtime engine{loaded, backend};
};

class TinyGemmaBuild : public TinyBuild {
 protected:
    TinyGemmaBuild()
        : TinyBuild({.architecture = "gemma3",
                     .n_layer = 4,
                     .n_ctx = 400,
                     .window = 12,
                     .window_period = 2}) {}
};

/// Heads of whole blocks of q8_0.
class WideTinyBuild : public TinyBuild {
 protected:
    WideTinyBuild() : TinyBuild({.n_layer = 2, .d_head = 32, .n_ctx = 400}) {}
};

}  // namespace palimpsest::testing
