// palimpsest bench report: what was measured, as a page, as Markdown, as a table for programs.

#include <filesystem>
#include <memory>

#include "bench/report/report_csv.h"
#include "bench/report/report_figures.h"
#include "bench/report/report_html.h"
#include "bench/report/report_markdown.h"
#include "cli/bench_commands.h"
#include "cli/file_flags.h"
#include "cli/setup.h"
#include "cli/terminal.h"
#include "core/error.h"

namespace palimpsest {

namespace {

struct ReportFlags {
    std::vector<std::string> files;
    std::string html, markdown, csv, figures;
    std::string title = "Palimpsest: what memories keep";
};

struct Measurements {
    std::vector<QualityResult> quality;
    std::vector<SpeedLine> speed;
    std::vector<PrefixResult> prefixes;
};

template <class T>
void append(std::vector<T>& to, std::vector<T> from) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
}

Measurements read_measurements(const std::vector<std::string>& files) {
    Measurements all;
    for (const std::string& file : files) {
        const std::string text = read_file(file);
        const std::string name = file == "-" ? "standard input" : file;
        std::vector<QualityResult> quality = read_quality_results(text, name);
        std::vector<SpeedLine> speed = read_speed_lines(text, name);
        std::vector<PrefixResult> prefixes = read_prefix_results(text, name);
        if (quality.empty() && speed.empty() && prefixes.empty()) {
            throw Error(
                ErrorCode::kCorrupt,
                cat("'", name, "' holds no results; `palimpsest bench quality`, ",
                    "`bench prefix` and `bench speed --json` write them, one JSON line ", "each"));
        }
        append(all.quality, std::move(quality));
        append(all.speed, std::move(speed));
        append(all.prefixes, std::move(prefixes));
    }
    return all;
}

void check_outputs(ReportFlags& f) {
    const bool is_named = !f.html.empty() || !f.markdown.empty() || !f.csv.empty();
    if (!is_named && f.figures.empty()) f.markdown = "-";
    int to_output = 0;
    for (const std::string& path : {f.html, f.markdown, f.csv}) to_output += path == "-" ? 1 : 0;
    require(to_output <= 1, "only one of --html, --markdown and --csv can go to standard output");
}

void require_figures_apart(const ReportFlags& f, std::span<const FigureFile> figures) {
    std::vector<NamedFile> written;
    for (const FigureFile& figure : figures) {
        written.push_back({"--figures", (std::filesystem::path(f.figures) / figure.name).string()});
    }
    std::vector<NamedFile> read;
    for (const std::string& file : f.files) read.push_back({"files", file});
    require_apart(written, read);
}

void bench_report(ReportFlags f) {
    check_outputs(f);
    const Measurements all = read_measurements(f.files);
    require(f.csv.empty() || !all.quality.empty(),
            "--csv lists results of quality, and there are none");
    const QualitySummary summary = summarize(all.quality);
    const ReportDocument report = make_report(summary, {all.speed, all.prefixes}, f.title);
    std::vector<FigureFile> figures;
    if (!f.figures.empty()) figures = report_figures(report);
    require_figures_apart(f, figures);
    const auto write = [](const std::string& path, const std::string& content) {
        write_file(path, content);
        if (path != "-") write_message(dim(cat("wrote ", path, "\n")));
    };
    if (!f.html.empty()) write(f.html, report_html(report));
    if (!f.markdown.empty()) write(f.markdown, report_markdown(report));
    if (!f.csv.empty()) write(f.csv, report_csv(summary));
    for (const FigureFile& figure : figures) {
        write((std::filesystem::path(f.figures) / figure.name).string(), figure.svg);
    }
}

}  // namespace

void add_bench_report(CLI::App& bench) {
    CLI::App* command = bench.add_subcommand("report", "results as a page, Markdown or CSV");
    auto f = std::make_shared<ReportFlags>();
    reads_file(command->add_option("files", f->files,
                                   "results of bench quality, prefix and speed; -: standard input"))
        ->required();
    writes_file(
        command->add_option("--html", f->html, "write one self-contained page to this file"));
    writes_file(
        command->add_option("--markdown", f->markdown, "write the same tables as Markdown"));
    writes_file(command->add_option("--csv", f->csv,
                                    "write a line a task, method and budget, for programs"));
    command
        ->add_option("--figures", f->figures, "write every chart as an SVG file into this folder")
        ->check(CLI::ExistingDirectory);
    command->add_option("--title", f->title, "what stands above it");
    command->footer(
        "\nWithout --html, --markdown, --csv or --figures, Markdown goes to standard output; so "
        "does what is written to -.\n");
    command->callback([f] { bench_report(*f); });
}

}  // namespace palimpsest
