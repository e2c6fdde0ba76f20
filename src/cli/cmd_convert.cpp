// palimpsest convert: checkpoints as they are published, into files that run here.

#include <filesystem>
#include <memory>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "compress/convert/convert_lclm.h"
#include "core/error.h"

namespace palimpsest {

namespace {

struct ConvertFlags {
    std::string checkpoint, folder, type = "f32";
};

void convert(const ConvertFlags& f) {
    // What it writes has names of its own in the folder.
    const auto in_folder = [&f](const char* name) {
        return NamedFile{"-o", (std::filesystem::path(f.folder) / name).string()};
    };
    require_apart(std::vector<NamedFile>{in_folder("encoder.gguf"), in_folder("decoder.gguf"),
                                         in_folder("adapter.gguf")},
                  std::vector<NamedFile>{{"the checkpoint", f.checkpoint}});
    catch_interrupts();
    ProgressBar bar("converting");
    const auto on_progress = [&bar](size_t done, size_t total) {
        constexpr size_t kUnit = 1 << 20;
        bar.show(static_cast<int64_t>(done / kUnit), static_cast<int64_t>(total / kUnit) + 1);
        return !interrupted();
    };
    const Converted done =
        convert_lclm(f.checkpoint, f.folder, {.type = f.type, .on_progress = on_progress});
    bar.clear();
    const CompressionForm& form = done.form;
    write_output(cat("wrote ", done.encoder, "\n      ", done.decoder, "\n      ", done.adapter,
                     "\n", form.ratio, " tokens in one latent, windows of ", form.window, " (",
                     to_string(form.pooling), ", ",
                     form.is_bidirectional ? "bidirectional" : "causal", "), ",
                     human_bytes(done.bytes_written), "\nRun it with: palimpsest run --latent ",
                     done.adapter, " -f DOCUMENT 'question'\n"));
}

}  // namespace

void add_convert(CLI::App& command) {
    command.require_subcommand(1);
    CLI::App* lclm = command.add_subcommand(
        "lclm", "a checkpoint of latent context: encoder, decoder and adapter");
    auto f = std::make_shared<ConvertFlags>();
    reads_file(lclm->add_option("checkpoint", f->checkpoint,
                                "its folder, with model_config.json, encoder, decoder and adapter"))
        ->required();
    lclm->add_option("-o,--out", f->folder,
                     "the folder that encoder.gguf, decoder.gguf and "
                     "adapter.gguf go into")
        ->required();
    lclm->add_option("--type", f->type, "how the models' matrices are stored")
        ->check(CLI::IsMember({"f32", "f16", "q8_0"}))
        ->capture_default_str();
    lclm->footer(
        "\nExample:\n"
        "  palimpsest convert lclm 0.6b-4b-LCLM-4x -o lclm-4x --type q8_0\n");
    lclm->callback([f] { convert(*f); });
}

}  // namespace palimpsest
