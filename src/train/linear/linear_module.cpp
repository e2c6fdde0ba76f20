#include "train/linear/linear_training.h"
#include "train/torch_module.h"

namespace palimpsest {

bool train_linear(const LinearTrainingOptions& options, const LinearTrainingHooks& hooks) {
    using Train = bool (*)(const LinearTrainingOptions&, const LinearTrainingHooks&);
    void* entry = torch_entry("palimpsest_train_linear", "a model with recurrent layers");
    return reinterpret_cast<Train>(entry)(options, hooks);
}

}  // namespace palimpsest
