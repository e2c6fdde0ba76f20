// The library from outside: asks a model about a document it may have to forget in part, and says
// what it kept. A model without words continues token ids.
//
//   answer model.gguf "Who signed?" contract.txt
//   answer model.gguf 17 4 99

#include <palimpsest/conversation.h>
#include <palimpsest/engine.h>

#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <vector>

using namespace palimpsest;

namespace {

bool print(std::string_view text) { return bool(std::cout << text << std::flush); }

TextPart document(const char* path) {
    std::ifstream file(path);
    if (!file) throw std::runtime_error(std::string("cannot read ") + path);
    return {.text = std::string(std::istreambuf_iterator<char>(file), {}) + "\n\n",
            .is_context = true};
}

}  // namespace

int main(int argc, char** argv) try {
    if (argc < 3) throw std::runtime_error("usage: answer MODEL QUESTION [FILE] | MODEL ID...");
    const Engine engine({.model = argv[1]});
    if (!engine.has_vocabulary()) {
        std::vector<int32_t> tokens;
        for (int i = 2; i < argc; ++i) tokens.push_back(std::atoi(argv[i]));
        Conversation talk(engine);
        for (const int32_t t : talk.go_on_from(tokens, {.max_tokens = 8}).run().tokens) {
            std::cout << t << ' ';
        }
        std::cout << '\n';
        return 0;
    }
    Conversation talk(engine, {.memory = {.budget = "1024"}});
    for (const std::string& note : talk.notes()) std::cerr << note << '\n';
    std::vector<TextPart> turn;
    if (argc > 3) turn.push_back(document(argv[3]));
    turn.push_back({.text = argv[2]});
    talk.ask(turn).run(print);
    std::cout << '\n' << talk.report_text();
} catch (const std::exception& e) {
    std::cerr << e.what() << '\n';
    return 1;
}
