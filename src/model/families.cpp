#include "model/families.h"

#include <array>

#include "core/error.h"

namespace palimpsest {

namespace {

constexpr std::array<Family, 12> kFamilies = {{
    {"llama",
     make_pre_norm,
     {.rope_adjacent = true},
     "Llama 2 and 3, Mistral, SmolLM2 and others of that shape"},
    {"qwen2", make_pre_norm, {}, "Qwen 2 and 2.5"},
    {"qwen3", make_pre_norm, {.norms_heads = true}, "Qwen 3, dense"},
    {"qwen3moe", make_pre_norm, {.norms_heads = true, .has_experts = true}, "Qwen 3 with experts"},
    {"gemma3", make_gemma3, {.norms_heads = true}, "Gemma 3, text"},
    {"mamba2", make_mamba2, {.attends = false, .feeds_forward = false}, "Mamba-2"},
    {"qwen35",
     make_delta_net,
     {.norms_heads = true, .states_alternate = true},
     "Qwen 3.5, dense, text: Gated DeltaNet and attention"},
    {"qwen35moe",
     make_delta_net,
     {.norms_heads = true, .has_experts = true, .states_alternate = true},
     "Qwen 3.5 with experts, text"},
    {"qwen3next",
     make_delta_net,
     {.norms_heads = true, .has_experts = true},
     "Qwen 3 Next: Gated DeltaNet and attention, with experts"},
    {"granite", make_granite, {.rope_adjacent = true}, "Granite 3 and 4, dense"},
    {"granitemoe",
     make_granite,
     {.rope_adjacent = true, .has_experts = true},
     "Granite 3 and 4 with experts"},
    {"granitehybrid",
     make_granite,
     {.rope_adjacent = true, .has_experts = true, .has_states = true},
     "Granite 4 hybrids: Mamba-2 and attention, with or without experts"},
}};

}  // namespace

std::span<const Family> families() { return kFamilies; }

const Family& find_family(std::string_view architecture) {
    std::string names;
    for (const Family& f : kFamilies) {
        if (f.architecture == architecture) return f;
        names += cat(names.empty() ? "" : ", ", f.architecture);
    }
    throw Error(ErrorCode::kUnsupported, cat("models of architecture '", architecture,
                                             "' are not supported; there are: ", names));
}

}  // namespace palimpsest
