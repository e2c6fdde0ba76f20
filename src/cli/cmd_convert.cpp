// palimpsest convert: checkpoints as they are published, into files that run here.

#include <filesystem>
#include <functional>
#include <memory>
#include <vector>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "compress/convert/convert_lclm.h"
#include "compress/convert/thin_additions.h"
#include "core/error.h"

namespace palimpsest {

namespace {

struct ConvertFlags {
    std::string from, folder, type = "f32";
    EngineOptions engine;  // of additions: its model
};

using Conversion = std::function<Converted(const ConvertOptions&)>;

/// `inputs`: what must not be written over.
void convert(const ConvertFlags& f, const std::vector<NamedFile>& inputs,
             const Conversion& conversion) {
    // What it writes has names of its own in the folder.
    const auto in_folder = [&f](const char* name) {
        return NamedFile{"-o", (std::filesystem::path(f.folder) / name).string()};
    };
    require_apart(std::vector<NamedFile>{in_folder("encoder.gguf"), in_folder("decoder.gguf"),
                                         in_folder("adapter.gguf")},
                  inputs);
    catch_interrupts();
    ProgressBar bar("converting");
    const auto on_progress = [&bar](size_t done, size_t total) {
        constexpr size_t kUnit = 1 << 20;
        bar.show(static_cast<int64_t>(done / kUnit), static_cast<int64_t>(total / kUnit) + 1);
        return !interrupted();
    };
    const Converted done = conversion({.type = f.type, .on_progress = on_progress});
    bar.clear();
    const CompressionForm& form = done.form;
    write_output(cat("wrote ", done.encoder, "\n      ", done.decoder, "\n      ", done.adapter,
                     "\n", form.ratio, " tokens in one latent, windows of ", form.window, " (",
                     to_string(form.pooling), ", ",
                     form.is_bidirectional ? "bidirectional" : "causal", "), ",
                     human_bytes(done.bytes_written), "\nRun it with: palimpsest run --latent ",
                     done.adapter, " -f DOCUMENT 'question'\n"));
}

void add_common(CLI::App& command, ConvertFlags& f) {
    command
        .add_option("-o,--out", f.folder,
                    "the folder that encoder.gguf, decoder.gguf and adapter.gguf go into")
        ->required();
    command.add_option("--type", f.type, "how the models' matrices are stored")
        ->check(CLI::IsMember({"f32", "f16", "q8_0"}))
        ->capture_default_str();
}

void add_lclm(CLI::App& command) {
    CLI::App* lclm = command.add_subcommand(
        "lclm", "a checkpoint of latent context: encoder, decoder and adapter");
    auto f = std::make_shared<ConvertFlags>();
    reads_file(lclm->add_option("checkpoint", f->from,
                                "its folder, with model_config.json, encoder, decoder and adapter"))
        ->required();
    add_common(*lclm, *f);
    lclm->footer(
        "\nExample:\n"
        "  palimpsest convert lclm 0.6b-4b-LCLM-4x -o lclm-4x --type q8_0\n");
    lclm->callback([f] {
        convert(*f, {{"the checkpoint", f->from}}, [&f](const ConvertOptions& options) {
            return convert_lclm(f->from, f->folder, options);
        });
    });
}

void add_additions(CLI::App& command) {
    CLI::App* additions = command.add_subcommand(
        "additions",
        "what 'train latent-context' learnt in thin additions, and the model it "
        "learnt them for");
    auto f = std::make_shared<ConvertFlags>();
    f->type = "q8_0";
    reads_file(additions->add_option("additions", f->from, "additions.gguf"))->required();
    reads_model(additions->add_option("-m,--model", f->engine.model, "the model"));
    add_common(*additions, *f);
    additions->footer(
        "\nExample:\n"
        "  palimpsest convert additions my-4x/additions.gguf -o my-4x-models\n");
    additions->callback([f] {
        const std::string model = model_path(f->engine);
        convert(*f, {{"the additions", f->from}, {"--model", model}},
                [&](const ConvertOptions& options) {
                    return merge_additions(f->from, model, f->folder, options);
                });
    });
}

}  // namespace

void add_convert(CLI::App& command) {
    command.require_subcommand(1);
    add_lclm(command);
    add_additions(command);
}

}  // namespace palimpsest
