#pragma once

#include <CLI/CLI.hpp>
#include <span>
#include <string>

namespace palimpsest {

// Flags that name files say so where they are declared. Help shows it, and before a command does
// anything, no output of it can be one of its inputs.

/// A file, or a folder of files, that the command reads.
CLI::Option* reads_file(CLI::Option* option);
/// The model; where none is named, the default one is read.
CLI::Option* reads_model(CLI::Option* option);
/// Trained weights; where none are named, those beside the model are read.
CLI::Option* reads_sidecar(CLI::Option* option);
/// A file that the command writes.
CLI::Option* writes_file(CLI::Option* option);

/// A path, and which flag it comes from.
struct NamedFile {
    std::string flag, path;
};

/// Throws kInvalidArgument, naming both flags, if an output is one of the inputs (the same file, by
/// whatever name or link), or if two outputs are one. For what a command writes beside the files
/// that flags name; check_flags() sees to those.
void require_apart(std::span<const NamedFile> outputs, std::span<const NamedFile> inputs);

/// Looks at what was given to the command that will run, and at what stands in for what was not.
/// Throws kInvalidArgument for a flag whose text is empty, for a file that a flag names twice and
/// as require_apart() does.
void check_flags(const CLI::App& program);

}  // namespace palimpsest
