// The library's public classes, as Python sees them. What is convenient is in Python, beside this: here every
// class and field has the name it has in C++. Whatever computes lets go of the interpreter's lock.

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include "palimpsest/conversation.h"
#include "palimpsest/document_memory.h"
#include "palimpsest/engine.h"
#include "palimpsest/error.h"
#include "palimpsest/latent_context.h"

namespace nb = nanobind;
using namespace nb::literals;
using namespace palimpsest;


namespace {

using Unlocked = nb::call_guard<nb::gil_scoped_release>;

/// The Python class of an error's kind.
const char* class_of(ErrorCode code) {
    switch (code) {
        case ErrorCode::kInvalidArgument:
            return "InvalidArgument";
        case ErrorCode::kNotFound:
            return "NotFound";
        case ErrorCode::kCorrupt:
            return "Corrupt";
        case ErrorCode::kUnsupported:
            return "Unsupported";
        case ErrorCode::kExhausted:
            return "Exhausted";
        case ErrorCode::kUnwritable:
            return "Unwritable";
        default:
            return "Error";
    }
}

void translate(const std::exception_ptr& thrown, void* /*unused*/) {
    try {
        std::rethrow_exception(thrown);
    } catch (const Error& e) {
        const nb::object type = nb::module_::import_("palimpsest.errors").attr(class_of(e.code()));
        PyErr_SetString(type.ptr(), e.what());
    }
}

std::string_view name_of(Generation::Activity activity) {
    switch (activity) {
        case Generation::Activity::kReading:
            return "reading";
        case Generation::Activity::kRepeating:
            return "repeating";
        case Generation::Activity::kWriting:
            return "writing";
        default:
            return "over";
    }
}

void bind_options(nb::module_& m) {
    nb::class_<EngineOptions>(m, "EngineOptions")
        .def(nb::init<>())
        .def_rw("model", &EngineOptions::model)
        .def_rw("threads", &EngineOptions::threads)
        .def_rw("chunk", &EngineOptions::chunk)
        .def_rw("reading", &EngineOptions::reading);
    nb::class_<MemoryChoice>(m, "MemoryChoice")
        .def(nb::init<>())
        .def_rw("budget", &MemoryChoice::budget)
        .def_rw("policy", &MemoryChoice::policy)
        .def_rw("allocator", &MemoryChoice::allocator)
        .def_rw("residue", &MemoryChoice::residue)
        .def_rw("settings", &MemoryChoice::settings)
        .def_rw("bank", &MemoryChoice::bank)
        .def_rw("bank_settings", &MemoryChoice::bank_settings)
        .def_rw("n_sink", &MemoryChoice::n_sink)
        .def_rw("n_recent", &MemoryChoice::n_recent)
        .def_rw("interval", &MemoryChoice::interval)
        .def_rw("one_shot", &MemoryChoice::one_shot)
        .def_rw("positions", &MemoryChoice::positions)
        .def_rw("sidecar", &MemoryChoice::sidecar)
        .def_rw("prefixes", &MemoryChoice::prefixes)
        .def_rw("prefix_gate", &MemoryChoice::prefix_gate)
        .def_rw("context", &MemoryChoice::context)
        .def_rw("entries", &MemoryChoice::entries)
        .def_rw("evicted", &MemoryChoice::evicted)
        .def_rw("n_writing", &MemoryChoice::n_writing)
        .def_rw("n_recent_writing", &MemoryChoice::n_recent_writing)
        .def_rw("attention", &MemoryChoice::attention);
    nb::class_<ConversationOptions>(m, "ConversationOptions")
        .def(nb::init<>())
        .def_rw("memory", &ConversationOptions::memory)
        .def_rw("system", &ConversationOptions::system)
        .def_rw("chat_template", &ConversationOptions::chat_template)
        .def_rw("is_raw", &ConversationOptions::is_raw)
        .def("set_latent", [](ConversationOptions& o, const LatentContext& latent) {
            o.regions = latent.regions();
        });
    nb::class_<SamplingOptions>(m, "SamplingOptions")
        .def(nb::init<>())
        .def_rw("temperature", &SamplingOptions::temperature)
        .def_rw("top_k", &SamplingOptions::top_k)
        .def_rw("top_p", &SamplingOptions::top_p)
        .def_rw("min_p", &SamplingOptions::min_p)
        .def_rw("repeat_penalty", &SamplingOptions::repeat_penalty)
        .def_rw("frequency_penalty", &SamplingOptions::frequency_penalty)
        .def_rw("presence_penalty", &SamplingOptions::presence_penalty)
        .def_rw("penalty_last_n", &SamplingOptions::penalty_last_n)
        .def_rw("seed", &SamplingOptions::seed)
        .def_rw("grammar", &SamplingOptions::grammar);
    nb::class_<AnswerOptions>(m, "AnswerOptions")
        .def(nb::init<>())
        .def_rw("sampling", &AnswerOptions::sampling)
        .def_rw("max_tokens", &AnswerOptions::max_tokens)
        .def_rw("stop", &AnswerOptions::stop)
        .def_rw("n_likeliest", &AnswerOptions::n_likeliest);
    nb::class_<LatentOptions>(m, "LatentOptions")
        .def(nb::init<>())
        .def_rw("adapter", &LatentOptions::adapter)
        .def_rw("encoder", &LatentOptions::encoder)
        .def_rw("ratio", &LatentOptions::ratio)
        .def_rw("cache", &LatentOptions::cache);
}

void bind_messages(nb::module_& m) {
    nb::class_<TextPart>(m, "TextPart")
        .def("__init__",
             [](TextPart* self, std::string text, bool is_context, bool keep) {
                 new (self) TextPart{std::move(text), is_context, keep};
             },
             "text"_a, "is_context"_a = false, "keep"_a = false)
        .def_rw("text", &TextPart::text)
        .def_rw("is_context", &TextPart::is_context)
        .def_rw("keep", &TextPart::keep);
    nb::class_<ChatMessage>(m, "ChatMessage")
        .def("__init__",
             [](ChatMessage* self, std::string role, std::vector<TextPart> parts) {
                 new (self) ChatMessage{.role = std::move(role), .parts = std::move(parts)};
             },
             "role"_a, "parts"_a)
        .def_rw("role", &ChatMessage::role)
        .def_rw("parts", &ChatMessage::parts);
}

void bind_answers(nb::module_& m) {
    nb::class_<TokenLikelihood>(m, "TokenLikelihood")
        .def_ro("token", &TokenLikelihood::token)
        .def_ro("log_probability", &TokenLikelihood::log_probability)
        .def_ro("likeliest", &TokenLikelihood::likeliest);
    nb::class_<GenerateResult>(m, "GenerateResult")
        .def_prop_ro("reason", [](const GenerateResult& r) { return to_string(r.reason); })
        .def_ro("n_prompt", &GenerateResult::n_prompt)
        .def_ro("n_generated", &GenerateResult::n_generated)
        .def_ro("prefill_s", &GenerateResult::prefill_s)
        .def_ro("decode_s", &GenerateResult::decode_s)
        .def_ro("text", &GenerateResult::text)
        .def_ro("stop_text", &GenerateResult::stop_text)
        .def_ro("tokens", &GenerateResult::tokens)
        .def_ro("likelihoods", &GenerateResult::likelihoods);
    nb::class_<Generation>(m, "Generation")
        .def("step", &Generation::step, Unlocked())
        .def("progress",
             [](const Generation& g) {
                 const Generation::Progress p = g.progress();
                 return nb::make_tuple(name_of(p.activity), p.done, p.total);
             })
        .def("take_text", &Generation::take_text)
        .def("cancel", &Generation::cancel, Unlocked())
        .def("result", &Generation::result, nb::rv_policy::copy);
}

void bind_engines(nb::module_& m) {
    nb::class_<Engine>(m, "Engine")
        .def(nb::init<const EngineOptions&>(), "options"_a, Unlocked())
        .def_prop_ro("model_name", [](const Engine& e) { return e.model_name(); })
        .def_prop_ro("architecture", [](const Engine& e) { return e.architecture(); })
        .def_prop_ro("trained_context", &Engine::trained_context)
        .def_prop_ro("has_vocabulary", &Engine::has_vocabulary);
    m.def("model_path", &model_path, "options"_a);
    nb::class_<LatentContext>(m, "LatentContext")
        .def(nb::init<const Engine&, const LatentOptions&>(), "engine"_a, "options"_a,
             nb::keep_alive<1, 2>(), Unlocked())
        .def_prop_ro("ratio", &LatentContext::ratio);
    nb::class_<Conversation>(m, "Conversation")
        .def(nb::init<const Engine&, const ConversationOptions&>(), "engine"_a, "options"_a,
             nb::keep_alive<1, 2>(), Unlocked())
        .def("notes", &Conversation::notes, nb::rv_policy::copy)
        .def("ask",
             nb::overload_cast<const std::vector<TextPart>&, const AnswerOptions&>(
                 &Conversation::ask),
             "parts"_a, "options"_a, nb::keep_alive<0, 1>(), Unlocked())
        .def("reply", &Conversation::reply, "messages"_a, "options"_a, nb::keep_alive<0, 1>(),
             Unlocked())
        .def("report_json", &Conversation::report_json, Unlocked())
        .def("report_text", &Conversation::report_text, "width"_a = 100, Unlocked())
        .def("held_share", [](const Conversation& c) { return c.report().held_share; })
        .def("held_positions", &Conversation::held_positions, "layer"_a, "head"_a)
        .def("is_raw", &Conversation::is_raw)
        .def("position", &Conversation::position)
        .def("room", &Conversation::room)
        .def("save", &Conversation::save, "path"_a, Unlocked())
        .def("load", &Conversation::load, "path"_a, Unlocked())
        .def("reset", &Conversation::reset);
    nb::class_<DocumentMemory>(m, "DocumentMemory")
        .def("__init__",
             [](DocumentMemory* self, const Engine& engine, const std::vector<TextPart>& documents,
                const ConversationOptions& conversation, const std::string& question) {
                 new (self) DocumentMemory(
                     engine, documents, {.conversation = conversation, .question = question});
             },
             "engine"_a, "documents"_a, "conversation"_a, "question"_a = "",
             nb::keep_alive<1, 2>(), Unlocked())
        .def_static("load", &DocumentMemory::load, "engine"_a, "path"_a, "conversation"_a,
                    nb::keep_alive<0, 1>(), Unlocked())
        .def("read_step", &DocumentMemory::read_step, Unlocked())
        .def("progress",
             [](const DocumentMemory& d) {
                 const Generation::Progress p = d.progress();
                 return nb::make_tuple(name_of(p.activity), p.done, p.total);
             })
        .def("ask", &DocumentMemory::ask, "question"_a, "options"_a, nb::keep_alive<0, 1>(),
             Unlocked())
        // What a copy needs is the engine, not what it was copied from.
        .def("fork", [](const DocumentMemory& d, const Engine& /*engine*/) { return d.fork(); },
             "engine"_a, nb::keep_alive<0, 2>(), Unlocked())
        .def("save", &DocumentMemory::save, "path"_a, Unlocked())
        .def("conversation", &DocumentMemory::conversation, nb::rv_policy::reference_internal)
        .def_prop_ro("n_read", &DocumentMemory::n_read);
}

}  // namespace

NB_MODULE(_core, m) {
    nb::register_exception_translator(translate);
    bind_options(m);
    bind_messages(m);
    bind_answers(m);
    bind_engines(m);
}
