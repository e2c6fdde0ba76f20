// GET /v1/models, as OpenAI's clients speak it.

#include "core/error.h"
#include "server/api/answer_form.h"
#include "server/api/routes.h"
#include "server/service.h"

namespace palimpsest {

namespace {

Json model_json(const Service& service) {
    const ModelConfig& c = service.engine().config();
    return {{"id", service.model_name()},
            {"object", "model"},
            {"created", service.started()},
            {"owned_by", "palimpsest"},
            {"max_model_len", c.n_ctx_train},
            {"meta",
             {{"architecture", c.architecture},
              {"n_ctx_train", c.n_ctx_train},
              {"n_embd", c.n_embd},
              {"n_vocab", c.n_vocab}}}};
}

}  // namespace

void handle_models(Service& service, const Call& call) {
    call.answer({{"object", "list"}, {"data", Json::array({model_json(service)})}});
}

void handle_model(Service& service, const Call& call) {
    if (call.params.front() != service.model_name()) {
        throw ApiError(404,
                       cat("no model is called '", call.params.front(), "'; there is '",
                           service.model_name(), "'"),
                       "model", "model_not_found");
    }
    call.answer(model_json(service));
}

}  // namespace palimpsest
