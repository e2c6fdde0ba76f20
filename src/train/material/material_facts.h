#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/random.h"

namespace palimpsest {

/// Something that a text states and that can be asked for afterwards.
struct Fact {
    std::string key, value;
    std::string statement;  // a sentence or a line
    std::string question, answer;
    bool is_line = false;  // stands on a line of its own: code, a setting
};

/// How many kinds of facts there are: codes, dates, names, settings, ...
int64_t n_fact_kinds();

/// A fact of kind 0 to n_fact_kinds() - 1.
Fact make_fact(int64_t kind, Random& random);

/// Rows of one table, and a fact for each cell but those of the first column.
struct FactTable {
    std::string text;
    std::vector<Fact> facts;  // without statements
};

FactTable make_table(Random& random);

}  // namespace palimpsest
