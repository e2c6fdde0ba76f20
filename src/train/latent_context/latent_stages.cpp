#include "train/latent_context/latent_training.h"

namespace palimpsest {

const std::vector<LatentStageKind>& latent_stage_kinds() {
    static const std::vector<LatentStageKind> kinds = {
        {"pack", "encoder and adapter learn to hold tokens; no decoder runs", 1e-3, 3e-4, 0, {}},
        {"adapter", "the adapter learns to be read by the decoder", 1e-3, 0, 0, {6, 1, 3, 0}},
        {"encoder", "encoder and adapter learn for the decoder", 9e-4, 3e-4, 0, {6, 1, 3, 0}},
        {"all", "encoder, adapter and decoder learn together", 9e-4, 3e-4, 6e-4, {6, 1, 3, 0}},
        {"answers", "all learn to answer", 3e-4, 1e-4, 2e-4, {1, 0, 3, 0}},
        {"skim",
         "all learn to ask for chunks, and to answer from them",
         3e-4,
         1e-4,
         2e-4,
         {1, 0, 2, 3}}};
    return kinds;
}

}  // namespace palimpsest
