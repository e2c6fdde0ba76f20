// Checkpoints of latent context of which one file is arbitrary: they convert, or Error says what is
// wrong, and never is a model left that does not open. The first byte says which file it is.

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

#include "compress/convert/convert_lclm.h"
#include "core/gguf.h"
#include "expect.h"
#include "support/latent_files.h"

namespace {

namespace fs = std::filesystem;

using palimpsest::convert_lclm;
using palimpsest::Converted;
using palimpsest::GgufFile;
using palimpsest::fuzzing::is_refused;
using palimpsest::testing::TemporaryFolder;

constexpr std::array<const char*, 8> kFiles = {
    "model_config.json",      "encoder/config.json",        "encoder/model.safetensors",
    "encoder/tokenizer.json", "decoder/config.json",        "decoder/tokenizer_config.json",
    "decoder/tokenizer.json", "adapter/adapter.safetensors"};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    static TemporaryFolder folder;
    static const std::string kCheckpoint = write_tiny_checkpoint(folder, "checkpoint");
    if (size == 0) return 0;
    const std::string name = kFiles.at(data[0] % kFiles.size());
    const fs::path place = fs::path(kCheckpoint) / name;
    const fs::path aside = place.string() + ".good";
    fs::rename(place, aside);
    folder.write("checkpoint/" + name, {reinterpret_cast<const char*>(data + 1), size - 1});
    is_refused([&] {
        const Converted made = convert_lclm(kCheckpoint, folder.path() + "/made", {});
        for (const std::string& path : {made.encoder, made.decoder, made.adapter}) {
            static_cast<void>(GgufFile::open(path));
        }
    });
    fs::rename(aside, place);
    return 0;
}
