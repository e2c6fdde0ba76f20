#include "train/latent_context/latent_training.h"
#include "train/torch_module.h"

namespace palimpsest {

bool train_latent_context(const LatentTrainingOptions& options, const LatentTrainingHooks& hooks) {
    using Train = bool (*)(const LatentTrainingOptions&, const LatentTrainingHooks&);
    void* entry = torch_entry("palimpsest_train_latent_context", "latent context");
    return reinterpret_cast<Train>(entry)(options, hooks);
}

}  // namespace palimpsest
