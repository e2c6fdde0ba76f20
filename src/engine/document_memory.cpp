#include "palimpsest/document_memory.h"

#include <array>
#include <fstream>
#include <sstream>
#include <utility>

#include "core/whole_file.h"
#include "engine/conversation_parts.h"
#include "memory/binary_stream.h"

namespace palimpsest {

namespace {

constexpr std::array<char, 8> kMagic = {'P', 'A', 'L', 'D', 'M', '0', '0', '1'};

// Between two documents, and between them and a question.
constexpr std::string_view kBetween = "\n\n";

std::vector<TextPart> as_documents(std::vector<TextPart> parts) {
    bool has_text = false;
    for (TextPart& p : parts) {
        has_text = has_text || p.text.find_first_not_of(" \t\r\n") != std::string::npos;
        if (!p.text.ends_with(kBetween)) p.text += kBetween;
        p.is_context = true;
    }
    require(has_text, "there is nothing to read: every document is empty");
    return parts;
}

/// Segments up to the last that is a document's, and those behind it.
std::pair<std::vector<Segment>, std::vector<Segment>> divided(std::vector<Segment> prompt) {
    auto end = prompt.end();
    while (end != prompt.begin() && !std::prev(end)->is_context) --end;
    std::vector<Segment> tail(std::make_move_iterator(end), std::make_move_iterator(prompt.end()));
    prompt.erase(end, prompt.end());
    return {std::move(prompt), std::move(tail)};
}

}  // namespace

struct DocumentMemory::Parts {
    const Engine* engine;
    ConversationOptions options;
    Conversation talk;
    bool is_read = false;
    std::string state = {};  // once all is read, for a memory that cannot go back by itself
    int64_t n_read = 0;
    bool is_as_read = false;  // nothing was asked since

    Parts(const Engine& e, ConversationOptions o)
        : engine(&e), options(std::move(o)), talk(e, options) {}

    [[nodiscard]] Session& session() const { return talk.session(); }

    void note_read() {
        is_read = is_as_read = true;
        n_read = talk.position();
        if (session().sequence().can_rewind()) return;
        std::ostringstream out;
        talk.parts_->write(out);
        state = std::move(out).str();
    }

    /// As reading left it.
    void restore() {
        require(is_read, "the documents are not read yet");
        require(talk.parts_->running == nullptr,
                "a question is asked while another one is answered");
        if (is_as_read) return;
        if (state.empty()) {
            session().sequence().rewind(n_read);
            talk.parts_->unread.clear();
        } else {
            std::istringstream in(state);
            talk.parts_->read(in);
        }
        is_as_read = true;
    }
};

DocumentMemory::DocumentMemory(std::unique_ptr<Parts> parts) : parts_(std::move(parts)) {}

DocumentMemory::DocumentMemory(const Engine& engine, const std::vector<TextPart>& documents,
                               const DocumentMemoryOptions& options)
    : parts_(std::make_unique<Parts>(engine, options.conversation)) {
    std::vector<TextPart> parts = as_documents(documents);
    parts.push_back({.text = options.question.empty() ? "?" : options.question});
    std::vector<Segment> prompt =
        parts_->talk.parts_->encode_first(parts, Tokenizer::Seams::kSeparate);
    FeedOptions how;
    if (!options.question.empty()) how.question = question_in(prompt);
    std::vector<Segment> head = divided(std::move(prompt)).first;
    require(!head.empty(), "the chat template leaves the documents out");
    parts_->session().sequence().feed(std::move(head), how);
}

DocumentMemory DocumentMemory::load(const Engine& engine, const std::string& path,
                                    const ConversationOptions& options) {
    auto parts = std::make_unique<Parts>(engine, options);
    std::ifstream in(path, std::ios::binary);
    if (!in) throw Error(ErrorCode::kNotFound, cat("cannot read '", path, "'"));
    try {
        if (take<std::array<char, 8>>(in) != kMagic) {
            throw Error(ErrorCode::kCorrupt, "these are no saved documents, or another version's");
        }
        parts->talk.parts_->read(in);
    } catch (const Error& e) {
        throw Error(e.code(), cat("'", path, "': ", e.what()));
    }
    parts->note_read();
    return DocumentMemory(std::move(parts));
}

DocumentMemory::~DocumentMemory() = default;
DocumentMemory::DocumentMemory(DocumentMemory&&) noexcept = default;
DocumentMemory& DocumentMemory::operator=(DocumentMemory&&) noexcept = default;

bool DocumentMemory::read_step() {
    if (parts_->is_read) return false;
    Session& session = parts_->session();
    if (session.sequence().wants()) session.step();
    if (session.sequence().wants()) return true;
    if (const auto& failure = session.sequence().failure()) throw Error(*failure);
    parts_->note_read();
    return false;
}

void DocumentMemory::read() {
    while (read_step()) {
    }
}

bool DocumentMemory::is_read() const { return parts_->is_read; }

Generation::Progress DocumentMemory::progress() const {
    if (parts_->is_read) return {Generation::Activity::kOver, 0, 0};
    const Sequence::Progress p = parts_->session().sequence().progress();
    const bool repeats = p.activity == Sequence::Activity::kRepeating;
    return {repeats ? Generation::Activity::kRepeating : Generation::Activity::kReading, p.done,
            p.total};
}

Generation DocumentMemory::ask(const std::string& question, const AnswerOptions& options) {
    parts_->restore();
    // What stands behind a document is the same whatever stands in it.
    const std::vector<TextPart> parts = {{.text = "x", .is_context = true}, {.text = question}};
    Conversation::Parts& talk = *parts_->talk.parts_;
    std::vector<Segment> prompt = talk.encode_first(parts, Tokenizer::Seams::kSeparate);
    Generation answer = talk.generate(divided(std::move(prompt)).second, options);
    parts_->is_as_read = false;
    return answer;
}

DocumentMemory DocumentMemory::fork() const {
    parts_->restore();
    auto copy = std::make_unique<Parts>(*parts_->engine, parts_->options);
    std::ostringstream out;
    if (parts_->state.empty()) parts_->talk.parts_->write(out);
    std::istringstream in(parts_->state.empty() ? std::move(out).str() : parts_->state);
    copy->talk.parts_->read(in);
    copy->note_read();
    return DocumentMemory(std::move(copy));
}

void DocumentMemory::save(const std::string& path) const {
    parts_->restore();
    std::ostringstream out;
    out.exceptions(std::ios::badbit);
    out.write(kMagic.data(), kMagic.size());
    parts_->talk.parts_->write(out);
    write_whole_file(path, std::move(out).str());
}

const Conversation& DocumentMemory::conversation() const { return parts_->talk; }
int64_t DocumentMemory::n_read() const { return parts_->n_read; }

}  // namespace palimpsest
