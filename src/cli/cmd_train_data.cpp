// palimpsest train-data: documents to train eviction on.

#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "cli/command.h"
#include "cli/file_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"
#include "text/json_text.h"
#include "train/material/material.h"

namespace palimpsest {

namespace {

struct TrainDataFlags {
    MaterialOptions material;
    std::vector<std::string> texts;
    std::string output;
};

/// Files that `paths` name, and all files under folders among them, in order of name.
std::vector<std::string> files_of(const std::vector<std::string>& paths) {
    std::vector<std::string> files;
    for (const std::string& path : paths) {
        if (!std::filesystem::is_directory(path)) {
            files.push_back(path);
            continue;
        }
        std::vector<std::string> inside;
        for (const auto& entry : std::filesystem::recursive_directory_iterator(path)) {
            if (entry.is_regular_file()) inside.push_back(entry.path().string());
        }
        std::ranges::sort(inside);
        files.insert(files.end(), inside.begin(), inside.end());
    }
    return files;
}

void train_data(const TrainDataFlags& f) {
    std::vector<std::string> texts;
    for (const std::string& path : files_of(f.texts)) texts.push_back(read_file(path));
    require(f.texts.empty() || !texts.empty(), "no file was found in what --texts names");
    std::string lines;
    const std::vector<std::string> documents = make_material(f.material, texts);
    for (const std::string& text : documents) {
        lines += json_text(nlohmann::json{{"text", text}}) + "\n";
    }
    write_file(f.output, lines);
    write_message(dim(cat(human_count(std::ssize(documents)), " documents, ",
                          human_count(std::ssize(lines)), " bytes\n")));
}

}  // namespace

void add_train_data(CLI::App& command) {
    auto f = std::make_shared<TrainDataFlags>();
    writes_file(command.add_option("-o,--output", f->output,
                                   "where to write JSON lines; '-': standard output"))
        ->required();
    command.add_option("--documents", f->material.n_documents, "how many")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
        ->capture_default_str();
    command
        .add_option("--characters", f->material.n_characters,
                    "how long each is, a sixth more or less")
        ->capture_default_str();
    reads_file(command.add_option(
        "--texts", f->texts, "texts, or folders of texts, to take windows of (default: none)"));
    command
        .add_option("--text-share", f->material.text_share,
                    "share of the documents that are windows of those texts")
        ->capture_default_str();
    command.add_option("--seed", f->material.seed, "the same seed gives the same documents")
        ->capture_default_str();
    command.callback([f] { train_data(*f); });
}

}  // namespace palimpsest
