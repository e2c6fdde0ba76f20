// palimpsest completion: a script for bash, written from the same declarations as the help.

#include "cli/command.h"
#include "cli/terminal.h"
#include "core/error.h"

namespace palimpsest {

namespace {

std::string words_of(const CLI::App& app) {
    std::string words;
    for (const CLI::App* sub : app.get_subcommands([](const CLI::App*) { return true; })) {
        words += sub->get_name() + " ";
    }
    for (const CLI::Option* option : app.get_options()) {
        for (const std::string& name : option->get_lnames()) words += "--" + name + " ";
    }
    return words;
}

void print_completion() {
    CLI::App program;
    add_commands(program);
    std::string cases;
    for (const CLI::App* sub : program.get_subcommands([](const CLI::App*) { return true; })) {
        cases += cat("    ", sub->get_name(), ") words='", words_of(*sub), "' ;;\n");
    }
    write_output(
        cat("_palimpsest() {\n"
            "  local words current=${COMP_WORDS[COMP_CWORD]}\n"
            "  case ${COMP_WORDS[1]} in\n",
            cases, "    *) words='", words_of(program),
            "' ;;\n"
            "  esac\n"
            "  COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
            "}\n"
            "complete -o default -F _palimpsest palimpsest\n"));
}

}  // namespace

void add_completion(CLI::App& command) {
    command.footer("\nExample: source <(palimpsest completion)\n");
    command.callback(print_completion);
}

}  // namespace palimpsest
