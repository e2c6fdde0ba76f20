#pragma once

#include <CLI/CLI.hpp>

namespace palimpsest {

// Subcommands of `palimpsest bench`, one file each.

void add_bench_quality(CLI::App& bench);
void add_bench_prefix(CLI::App& bench);
void add_bench_report(CLI::App& bench);
void add_bench_linear(CLI::App& bench);

}  // namespace palimpsest
