#pragma once

// What a conversation is made of, for what else holds one (document_memory.cpp).

#include <iosfwd>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/digest.h"
#include "core/error.h"
#include "engine/generate.h"
#include "engine/prefix_text.h"
#include "engine/runtime.h"
#include "palimpsest/conversation.h"

namespace palimpsest {

/// Characters of a template's name; of a longer text, its digest.
inline constexpr int64_t kMostTemplateName = 256;

struct Conversation::Parts {
    const Runtime& engine;
    ConversationOptions options;
    const Tokenizer* tokenizer;                       // nullptr: the model has no words
    std::unique_ptr<const ChatTemplate> chosen = {};  // instead of the model's own
    std::vector<std::string> notes;
    std::vector<std::shared_ptr<const PrefixDocument>> prefixes;
    std::unique_ptr<Session> session;
    /// The last token of an answer that the model did not end was picked, but not read.
    std::vector<TokenId> unread = {};
    Generation::State* running = nullptr;

    Parts(const Runtime& runtime, const ConversationOptions& o)
        : engine(runtime), options(o), tokenizer(runtime.loaded().tokenizer()) {
        if (!o.chat_template.empty()) {
            chosen = engine.loaded().require_tokenizer().chosen_template(o.chat_template);
        }
        MemoryPlan plan = engine.plan(o.memory);
        notes = std::move(plan.notes);
        prefixes = plan.options.prefix.documents;
        check_prefixes_fit();
        session = engine.make_session(engine.make_memory(plan));
        if (!is_raw() && tokenizer != nullptr && !has_template()) {
            notes.emplace_back("this model has no chat template; the text goes in as it is");
        }
    }

    void check_prefixes_fit() const {
        if (prefixes.empty()) return;
        const PrefixHeader& first = prefixes.front()->header();
        require(options.system.empty() && options.chat_template.empty(),
                "a prefix memory is what the system says, in the model's own template; leave out "
                "--system and --chat-template");
        require(!options.is_raw || first.is_raw, "the prefix memory '", first.name,
                "' was built for chats; leave out --raw, or build it with --raw");
    }

    [[nodiscard]] bool has_template() const {
        return chosen != nullptr || tokenizer->has_chat_template();
    }
    [[nodiscard]] const ChatTemplate& chat_template() const {
        return chosen != nullptr ? *chosen : tokenizer->chat_template();
    }
    /// By what a saved conversation knows its template.
    [[nodiscard]] std::string template_name() const {
        const std::string& choice = options.chat_template;
        return std::ssize(choice) <= kMostTemplateName ? choice : digest_of(choice);
    }
    /// Do texts go in as they are?
    [[nodiscard]] bool is_raw() const {
        if (!prefixes.empty()) return prefixes.front()->header().is_raw;
        return options.is_raw || (tokenizer != nullptr && !has_template());
    }

    /// What stands for documents; nullptr: their tokens do.
    [[nodiscard]] const Regions* regions() const { return options.regions.get(); }

    /// A conversation's first turn.
    [[nodiscard]] std::vector<Segment> encode_first(const std::vector<TextPart>& parts,
                                                    Tokenizer::Seams seams) const {
        const Tokenizer& t = engine.loaded().require_tokenizer();
        if (!prefixes.empty()) return request_after(*prefixes.front(), t, parts, regions());
        if (is_raw()) return t.encode_raw(parts, seams, regions());
        std::vector<ChatMessage> messages;
        if (!options.system.empty()) messages.push_back({"system", {{options.system, false}}});
        messages.push_back({"user", parts});
        return t.encode_chat(messages, chat_template(), seams, regions());
    }

    /// A whole conversation.
    [[nodiscard]] std::vector<Segment> encode_all(std::vector<ChatMessage> messages) const;

    [[nodiscard]] std::vector<Segment> encode(const std::vector<TextPart>& parts) const {
        const Tokenizer& t = engine.loaded().require_tokenizer();
        if (session->position() == 0) return encode_first(parts, Tokenizer::Seams::kJoined);
        std::vector<Segment> next =
            is_raw() ? t.encode_more(parts, regions())
                     : t.encode_next_turn({"user", parts}, chat_template(), regions());
        next.insert(next.begin(), {.tokens = unread});
        return next;
    }

    std::unique_ptr<Generation::State> begin(std::vector<Segment> prompt,
                                             const AnswerOptions& options_of_answer);

    [[nodiscard]] Generation generate(std::vector<Segment> prompt, const AnswerOptions& answer);

    /// Between two turns. As Conversation::save() and load() say.
    void write(std::ostream& out) const;
    void read(std::istream& in);
};

}  // namespace palimpsest
