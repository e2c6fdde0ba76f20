// The server as a whole, over a model that speaks nonsense: who may ask, and in which form answers
// come.

#include "server/service.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <thread>

#include "memory/prefix/prefix_file.h"
#include "palimpsest/conversation.h"
#include "palimpsest/engine.h"
#include "server/api/routes.h"
#include "support/golden.h"
#include "support/http_client.h"
#include "support/tiny_build.h"
#include "support/tiny_model.h"
#include "text/json_text.h"

namespace palimpsest {
namespace {

using testing::http_request;
using testing::HttpReply;
using testing::RawClient;
using Json = nlohmann::ordered_json;

class Server {
 public:
    Server(const Engine& engine, ServiceOptions options)
        : service((options.port = 0, options.memory_bytes = int64_t{64} << 20,
                   std::make_unique<Service>(engine.runtime(), options))),
          thread([this] { service->run(); }) {}
    ~Server() {
        service->stop();
        thread.join();
    }
    [[nodiscard]] int port() const { return service->options().port; }

    std::unique_ptr<Service> service;
    std::thread thread;
};

class Serves : public ::testing::Test {
 protected:
    Serves()
        : file(testing::speaking_model_bytes({.n_ctx = 600}), ".gguf"),
          engine({.model = file.path(), .threads = 1, .chunk = 64}) {}

    void begin(ServiceOptions options = {}) {
        options.answer.max_tokens = 8;
        server = std::make_unique<Server>(engine, options);
    }
    [[nodiscard]] HttpReply post(const std::string& path, const std::string& body,
                                 const std::string& headers = "") const {
        return http_request(server->port(), "POST", path, body, headers);
    }
    [[nodiscard]] HttpReply get(const std::string& path, const std::string& headers = "") const {
        return http_request(server->port(), "GET", path, "", headers);
    }

    testing::TemporaryFile file;
    Engine engine;
    std::unique_ptr<Server> server;
};

constexpr const char* kChat = R"({"messages": [{"role": "user", "content": "hello there"}]})";

TEST_F(Serves, EveryApiAnswers) {
    begin();
    Json chat = parse_json<Json>(post("/v1/chat/completions", kChat).body);
    EXPECT_EQ(chat["choices"][0]["message"]["role"], "assistant");
    EXPECT_TRUE(chat["choices"][0]["message"]["content"].is_string());
    EXPECT_GT(chat["usage"]["prompt_tokens"], 5);
    Json message = parse_json<Json>(
        post("/v1/messages",
             R"({"max_tokens": 5, "messages": [{"role": "user", "content": "hello there"}]})")
            .body);
    EXPECT_EQ(message["content"][0]["type"], "text");
    Json ollama = parse_json<Json>(
        post("/api/chat",
             R"({"stream": false, "messages": [{"role": "user", "content": "hello there"}]})")
            .body);
    EXPECT_TRUE(ollama["done"].get<bool>());
    Json response = parse_json<Json>(post("/v1/responses", R"({"input": "hello there"})").body);
    EXPECT_EQ(response["output"][0]["content"][0]["type"], "output_text");
    Json text = parse_json<Json>(post("/v1/completions", R"({"prompt": "hello there"})").body);
    EXPECT_TRUE(text["choices"][0]["text"].is_string());
    Json vectors = parse_json<Json>(post("/v1/embeddings", R"({"input": ["a", "b"]})").body);
    EXPECT_EQ(vectors["data"].size(), 2U);
    for (const char* path : {"/v1/models", "/api/tags", "/api/version", "/props", "/health",
                             "/v1/sessions", "/api/ps"}) {
        EXPECT_TRUE(parse_json<Json>(get(path).body).is_object()) << path;
    }
    EXPECT_NE(get("/metrics").body.find("palimpsest_requests_total 6"), std::string::npos);
    Json tokens = parse_json<Json>(post("/tokenize", R"({"content": "hello"})").body);
    EXPECT_EQ(parse_json<Json>(post("/detokenize", json_text(tokens)).body)["content"], "hello");
}

TEST_F(Serves, StreamsSayWhatWholeAnswersSay) {
    begin();
    const std::string body =
        R"({"messages": [{"role": "user", "content": "hello there"}], "temperature": 0)";
    const Json whole = parse_json<Json>(post("/v1/chat/completions", body + "}").body);
    const HttpReply reply = post("/v1/chat/completions", body + R"(, "stream": true})");
    EXPECT_NE(reply.head.find("text/event-stream"), std::string::npos);
    std::string text;
    for (size_t at = reply.body.find("data: {"); at != std::string::npos;
         at = reply.body.find("data: {", at + 1)) {
        const std::string line = reply.body.substr(at + 6, reply.body.find('\n', at) - at - 6);
        const Json chunk = parse_json<Json>(line);
        ASSERT_FALSE(chunk["choices"].empty());
        text += chunk["choices"][0]["delta"].value("content", "");
    }
    EXPECT_EQ(text, whole["choices"][0]["message"]["content"]);
    EXPECT_NE(reply.body.find("data: [DONE]"), std::string::npos);
}

TEST_F(Serves, ErrorsAreInEachApisOwnShape) {
    begin();
    const Json openai = parse_json<Json>(
        post("/v1/chat/completions", R"({"messages": [], "temperature": 1})").body);
    EXPECT_EQ(openai["error"]["param"], "messages");
    const HttpReply anthropic = post("/v1/messages", R"({"messages": []})");
    EXPECT_EQ(anthropic.status, 400);
    EXPECT_EQ(parse_json<Json>(anthropic.body)["type"], "error");
    EXPECT_TRUE(parse_json<Json>(post("/api/chat", "{}").body)["error"].is_string());
    EXPECT_EQ(get("/nothing/here").status, 404);
    EXPECT_EQ(get("/v1/chat/completions").status, 405);
    EXPECT_EQ(post("/v1/chat/completions", "no JSON").status, 400);
}

TEST_F(Serves, KeysOpenAndOwn) {
    begin({.keys = {"alpha", "beta"}});
    EXPECT_EQ(post("/v1/chat/completions", kChat).status, 401);
    EXPECT_EQ(post("/v1/chat/completions", kChat, "Authorization: Bearer gamma\r\n").status, 401);
    EXPECT_EQ(post("/v1/chat/completions", kChat, "Authorization: Bearer alpha\r\n").status, 200);
    EXPECT_EQ(post("/v1/chat/completions", kChat, "x-api-key: beta\r\n").status, 200);
    EXPECT_EQ(get("/health").status, 200);
    EXPECT_EQ(get("/").status, 200);
    const Json mine = parse_json<Json>(get("/v1/sessions", "x-api-key: alpha\r\n").body);
    ASSERT_EQ(mine["data"].size(), 1U);
    const std::string path = "/v1/sessions/" + mine["data"][0]["id"].get<std::string>();
    EXPECT_EQ(get(path, "x-api-key: alpha\r\n").status, 200);
    EXPECT_EQ(get(path, "x-api-key: beta\r\n").status, 404);
    EXPECT_EQ(get(path).status, 401);
}

TEST_F(Serves, OtherSitesMayNotAsk) {
    begin();
    const std::string own = cat("Origin: http://localhost\r\n");
    EXPECT_EQ(post("/v1/chat/completions", kChat, own).status, 200);
    EXPECT_EQ(post("/v1/chat/completions", kChat, "Origin: https://evil.example\r\n").status, 403);
    EXPECT_EQ(post("/v1/chat/completions", kChat, "Origin: http://evil-localhost\r\n").status, 403);
    EXPECT_EQ(post("/v1/chat/completions", kChat, "Origin: null\r\n").status, 403);
    RawClient client(server->port());
    client.send("GET /props HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n");
    EXPECT_NE(client.read_until("\r\n").find("403"), std::string::npos);
    begin({.allowed_origin = "https://good.example"});
    EXPECT_EQ(post("/v1/chat/completions", kChat, "Origin: https://good.example\r\n").status, 200);
    EXPECT_EQ(http_request(server->port(), "OPTIONS", "/v1/chat/completions", "",
                           "Origin: https://good.example\r\n")
                  .status,
              204);
}

TEST_F(Serves, ThePageIsThereAndLoadsNothingFromElsewhere) {
    begin();
    const HttpReply page = get("/");
    EXPECT_EQ(page.status, 200);
    EXPECT_NE(page.head.find("default-src 'none'"), std::string::npos);
    EXPECT_EQ(page.body.find("https://"), std::string::npos);
    EXPECT_EQ(get("/main.js").status, 200);
    EXPECT_EQ(get("/components/composer.js").status, 200);
    for (const char* path :
         {"/../CMakeLists.txt", "/%2e%2e/x", "/components/..%2fmain.js", "/x.js"}) {
        EXPECT_EQ(get(path).status, 404) << path;
    }
}

/// Every limit, at a value that a request breaks.
TEST_F(Serves, LimitsAreHeld) {
    const auto refused = [&](int64_t ServerLimits::*limit, int64_t value, const std::string& path,
                             const std::string& body) {
        ServiceOptions options;
        options.limits.*limit = value;
        begin(options);
        return post(path, body).status;
    };
    const std::string chat = "/v1/chat/completions";
    const std::string two = R"({"messages": [{"role": "user", "content": [{"type": "text",
        "text": "a"}, {"type": "text", "text": "b"}]}, {"role": "user", "content": "c"}])";
    EXPECT_EQ(refused(&ServerLimits::body_bytes, 1024, chat, std::string(2000, ' ')), 413);
    EXPECT_EQ(refused(&ServerLimits::messages, 1, chat, two + "}"), 400);
    EXPECT_EQ(refused(&ServerLimits::parts, 2, chat, two + "}"), 400);
    EXPECT_EQ(refused(&ServerLimits::choices, 2, chat, two + R"(, "n": 3})"), 400);
    // Clients ask for more than there is: they get that much.
    EXPECT_EQ(refused(&ServerLimits::max_tokens, 10, chat, two + R"(, "max_tokens": 64000})"), 200);
    EXPECT_EQ(refused(&ServerLimits::stops, 1, chat, two + R"(, "stop": ["a", "b"]})"), 400);
    EXPECT_EQ(refused(&ServerLimits::stop_bytes, 2, chat, two + R"(, "stop": "abc"})"), 400);
    EXPECT_EQ(refused(&ServerLimits::tools, 0, chat, two + R"(, "tools": [{}]})"), 400);
    EXPECT_EQ(
        refused(&ServerLimits::schema_bytes, 64, chat,
                two + R"(, "response_format": {"type": "json_schema", "json_schema": {"schema":
                         {"description": ")" +
                    std::string(100, 'x') + R"("}}}})"),
        400);
    EXPECT_EQ(refused(&ServerLimits::template_bytes, 1024, chat,
                      R"({"messages": [{"role": "user", "content": ")" + std::string(2000, 'x') +
                          R"("}]})"),
              400);
    EXPECT_EQ(refused(&ServerLimits::inputs, 1, "/v1/embeddings", R"({"input": ["a", "b"]})"), 400);
    EXPECT_EQ(refused(&ServerLimits::queue, 128, chat, two + "}"), 200);
}

TEST_F(Serves, ADrainingServerEndsWhatRunsAndTakesNoMore) {
    begin();
    RawClient client(server->port());
    const std::string body =
        R"({"messages": [{"role": "user", "content": "hello"}], "stream": true, "max_tokens": 300})";
    client.send(cat("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ",
                    body.size(), "\r\n\r\n", body));
    client.read_until("data: ");
    server->service->drain(30);
    const std::string rest = client.read_all(30);
    EXPECT_NE(rest.find("[DONE]"), std::string::npos);
    EXPECT_THROW(static_cast<void>(RawClient(server->port())), std::runtime_error);
    server->thread.join();
    server->thread = std::thread([] {});
}

TEST_F(Serves, AClientThatGoesEndsItsRequest) {
    begin();
    {
        RawClient client(server->port());
        const std::string body =
            R"({"messages": [{"role": "user", "content": "x"}], "stream": true, "max_tokens": 500})";
        client.send(cat("POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: ",
                        body.size(), "\r\n\r\n", body));
        client.read_until("data: ");
    }
    for (int i = 0; i < 100 && !server->service->scheduler().is_idle(); ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    EXPECT_TRUE(server->service->scheduler().is_idle());
    EXPECT_EQ(server->service->metrics().cancelled, 1);
}

/// A conversation that ends with the assistant's words is gone on with there, in every API.
TEST_F(Serves, GoesOnWithAnAnswerThatWasBegun) {
    begin();
    const Tokenizer& t = engine.runtime().loaded().require_tokenizer();
    const std::vector<ChatMessage> user = {{"user", {{"hello there"}}}};
    std::vector<TokenId> tokens;
    std::vector<Segment> prompt = t.encode_chat(user);
    prompt.push_back({.tokens = t.encode("Well, ")});
    for (const Segment& s : prompt) {
        tokens.insert(tokens.end(), s.tokens.begin(), s.tokens.end());
    }
    const auto told = [&](const std::string& path, const std::string& said) {
        const HttpReply r =
            post(path, cat(R"({"temperature": 0, "stream": false, "max_tokens": 6, "options": )",
                           R"({"temperature": 0, "num_predict": 6}, )", said, "}"));
        EXPECT_EQ(r.status, 200) << r.body;
        return parse_json<Json>(r.body);
    };
    const Json wanted =
        told("/v1/completions", cat("\"prompt\": ", json_text(Json(tokens))))["choices"][0];
    ASSERT_FALSE(wanted["text"].get<std::string>().empty());
    const std::string both = R"("messages": [{"role": "user", "content": "hello there"},
                                {"role": "assistant", "content": "Well, "}])";
    const Json chat = told("/v1/chat/completions", both);
    EXPECT_EQ(chat["choices"][0]["message"]["content"], wanted["text"]);
    EXPECT_EQ(chat["usage"]["prompt_tokens"], tokens.size());
    EXPECT_EQ(told("/v1/messages", both)["content"][0]["text"], wanted["text"]);
    EXPECT_EQ(told("/api/chat", both)["message"]["content"], wanted["text"]);
}

/// Prefix memories of the model, one of a system's message and one of a plain text.
void write_prefix(const Engine& engine, const std::string& path, bool is_raw) {
    std::string text;
    for (int i = 0; i < 12; ++i) text += cat("Rule ", i, ": pay ", i * 7, " in room ", i, ".\n");
    std::vector<TraceText> requests;
    for (int i = 0; i < 16; ++i) requests.push_back({cat("What of rule ", i, "?"), "Pay."});
    const testing::TemporaryFolder work;
    PrefixBuildOptions options;
    options.name = "rules";
    options.is_forced = true;
    options.k = 8;
    options.work_folder = work.path();
    const Tokenizer& t = engine.runtime().loaded().require_tokenizer();
    const PrefixBuild built =
        build_prefix({.engine = engine.runtime()}, {t, text, is_raw}, requests, options);
    const std::array all = {built.document};
    write_prefixes(path, all);
}

TEST_F(Serves, PrefixMemoriesThatRequestsName) {
    testing::TemporaryFolder folder;
    const std::string rules = folder.path() + "/rules.prefix.gguf";
    write_prefix(engine, rules, false);
    write_prefix(engine, folder.path() + "/plain.prefix.gguf", true);
    static_cast<void>(folder.write("notes.txt", "no prefix"));
    begin({.prefixes = folder.path()});
    const Json known = parse_json<Json>(get("/props").body)["prefixes"];
    ASSERT_EQ(known.size(), 2U);
    EXPECT_EQ(known[1]["name"], "rules");
    EXPECT_GT(known[1]["tokens"], 50);

    // The same answer as the library gives, by a prompt without the prefix's text.
    Conversation alone(engine, {.memory = {.prefixes = {rules}}});
    Generation answer = alone.ask(std::string("hello there"), {.max_tokens = 8});
    while (answer.step()) {
    }
    const auto chat = [&](const std::string& more) {
        return post(
            "/v1/chat/completions",
            R"({"temperature": 0, "messages": [{"role": "user", "content": "hello there"}])" +
                more + "}");
    };
    const Json told = parse_json<Json>(chat(R"(, "memory": {"prefix": ["rules"]})").body);
    EXPECT_EQ(told["choices"][0]["message"]["content"], answer.result().text);
    EXPECT_EQ(told["usage"]["prompt_tokens"], answer.result().n_prompt);
    const Json bare = parse_json<Json>(chat("").body);
    EXPECT_GT(bare["usage"]["prompt_tokens"], 0);
    // The next turn goes on from it, and only with it.
    const auto cached = [&](const std::string& more) {
        return parse_json<Json>(chat(more).body)["usage"]["prompt_tokens_details"]["cached_tokens"]
            .get<int64_t>();
    };
    EXPECT_GT(cached(R"(, "memory": {"prefix": "rules"})"), 0);
    const auto other = [&](const std::string& more) {
        const Json j = parse_json<Json>(
            post("/v1/chat/completions",
                 R"({"messages": [{"role": "user", "content": "a text of many other letters"}])" +
                     more + "}")
                .body);
        return j["usage"]["prompt_tokens"].get<int64_t>() -
               j["usage"]["prompt_tokens_details"]["cached_tokens"].get<int64_t>();
    };
    EXPECT_GT(other(R"(, "memory": {"prefix": "rules"})"), 20);
    EXPECT_GT(other(""), 20);  // what was read behind the prefix is nothing without it

    const auto text = [&](const std::string& more) {
        return post("/v1/completions", R"({"prompt": "hello", "memory": )" + more + "}").status;
    };
    EXPECT_EQ(text(R"({"prefix": ["plain"]})"), 200);
    EXPECT_EQ(text(R"({"prefix": []})"), 200);
    EXPECT_EQ(text(R"({"prefix": ["rules"]})"), 400);
    EXPECT_EQ(chat(R"(, "memory": {"prefix": ["plain"]})").status, 400);
    EXPECT_EQ(chat(R"(, "memory": {"prefix": ["rules", "plain"]})").status, 400);
    EXPECT_EQ(chat(R"(, "memory": {"prefix": ["rules", "rules"]})").status, 400);
    for (const char* name : {"\"../rules\"", "\"rules.prefix.gguf\"", "\"\"", "7"}) {
        EXPECT_EQ(chat(cat(R"(, "memory": {"prefix": [)", name, "]}")).status, 400) << name;
    }
    const HttpReply system =
        post("/v1/chat/completions", R"({"memory": {"prefix": ["rules"]}, "messages": [
             {"role": "system", "content": "x"}, {"role": "user", "content": "y"}]})");
    EXPECT_EQ(system.status, 400);
    EXPECT_EQ(system.body.find(folder.path()), std::string::npos);
    EXPECT_EQ(parse_json<Json>(system.body)["error"]["param"], "memory.prefix");
}

/// Files are read at the start: what becomes of them later is nobody's business.
TEST_F(Serves, PrefixMemoriesOutliveTheirFiles) {
    const testing::TemporaryFolder folder;
    const std::string rules = folder.path() + "/rules.prefix.gguf";
    write_prefix(engine, rules, false);
    begin({.prefixes = folder.path()});
    std::filesystem::remove(rules);
    for (const char* budget : {"100", "120"}) {
        const HttpReply reply = post(
            "/v1/chat/completions",
            cat(R"({"messages": [{"role": "user", "content": "hello"}], "memory": {"budget": )",
                budget, R"(, "prefix": ["rules"]}})"));
        EXPECT_EQ(reply.status, 200) << reply.body;
    }
    // Two of one name could not be told apart.
    const testing::TemporaryFolder elsewhere;
    write_prefix(engine, rules, false);
    write_prefix(engine, elsewhere.path() + "/rules.prefix.gguf", true);
    const ServiceOptions both = {.memory = {.prefixes = {elsewhere.path() + "/rules.prefix.gguf"}},
                                 .prefixes = folder.path()};
    EXPECT_THROW(Service(engine.runtime(), both), Error);
}

/// What stands before every request.
TEST_F(Serves, APrefixMemoryOfItsOwn) {
    const testing::TemporaryFolder folder;
    const std::string rules = folder.path() + "/rules.prefix.gguf";
    write_prefix(engine, rules, false);
    begin({.memory = {.prefixes = {rules}}});
    const auto n_prompt = [&](const std::string& more) {
        return parse_json<Json>(
                   post("/v1/chat/completions",
                        R"({"messages": [{"role": "user", "content": "hello"}])" + more + "}")
                       .body)["usage"]["prompt_tokens"]
            .get<int64_t>();
    };
    const int64_t with = n_prompt(""), without = n_prompt(R"(, "memory": {"prefix": []})");
    EXPECT_GT(without, with);  // the template's beginning is the prefix's
    EXPECT_EQ(parse_json<Json>(post("/v1/embeddings", R"({"input": "a"})").body)["data"].size(),
              1U);
    // Not with a template that it was not built with.
    ServiceOptions other = {.memory = {.prefixes = {rules}}, .chat_template = "chatml"};
    EXPECT_THROW(Service(engine.runtime(), other), Error);
    EXPECT_THROW(Service(engine.runtime(), {.prefixes = folder.path() + "/none"}), Error);
}

TEST(Routes, StandOnceEachAndSayWhatTheyAre) {
    for (const Route& route : routes()) {
        EXPECT_FALSE(route.summary.empty()) << route.path;
        std::vector<std::string> params;
        int status = 0;
        EXPECT_EQ(find_route(route.method, route.path, params, status), &route) << route.path;
    }
}

}  // namespace
}  // namespace palimpsest
