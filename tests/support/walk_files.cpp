#include "support/walk_files.h"

#include <string>

#include "core/error.h"
#include "support/latent_files.h"
#include "support/quality_samples.h"
#include "support/tiny_model.h"

namespace palimpsest::testing {

void fill_for_walk(TemporaryFolder& folder) {
    folder.write("m.gguf", speaking_model_bytes({.n_layer = 1, .n_ctx = 512}));
    // The agent has more to say than that holds.
    folder.write("long.gguf", speaking_model_bytes({.n_layer = 1, .n_ctx = 4096}));
    std::string text;
    for (int i = 0; i < 60; ++i) text += cat("Rule ", i, ": pay ", i * i % 97, ". ");
    folder.write("doc.txt", text);
    folder.write("rules.txt", text.substr(0, 100));
    std::string traces;
    for (int i = 0; i < 8; ++i) {
        traces += cat(R"({"prompt": "What does rule )", i, R"( say?", "response": "Pay.")", "}\n");
    }
    folder.write("traces.jsonl", traces);
    std::string texts;
    for (int i = 0; i < 3; ++i) texts += cat("{\"text\": \"", i, " ", text, "\"}\n");
    folder.write("texts.jsonl", texts);
    folder.write("tokens.json", "[1, 2, 3]");
    folder.write("adapter.gguf", tiny_adapter().bytes());
    write_tiny_checkpoint(folder, "checkpoint");
    folder.write("additions.gguf", tiny_additions_bytes(folder.path() + "/m.gguf", 1));
    folder.write("results.jsonl", to_json_line(full_result("vt", "0", 1)) + "\n");
}

}  // namespace palimpsest::testing
