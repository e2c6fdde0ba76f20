#include "cli/command.h"

int main(int argc, char** argv) { return palimpsest::run_program(argc, argv); }
