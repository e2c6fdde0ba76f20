// What requests say, field by field.

#include "server/fields.h"

#include <gtest/gtest.h>

#include "server/api_error.h"

namespace palimpsest {
namespace {

/// The parameter that a request is refused for; "-": it is not refused.
template <typename Do>
std::string refused(Do what) {
    try {
        what();
    } catch (const ApiError& e) {
        EXPECT_EQ(e.status, 400);
        EXPECT_FALSE(std::string(e.what()).empty());
        return e.param;
    }
    return "-";
}

TEST(RequestFields, TakeWhatIsThereAndRefuseTheRestByName) {
    const RequestJson json = read_body(
        R"({"n": 3, "whole": 4.0, "x": 0.5, "yes": true, "text": "t", "list": ["a", "b"],
            "none": null, "object": {"deep": 7}})");
    const Fields f(json);
    EXPECT_EQ(f.integer("n", 1, 5), 3);
    EXPECT_EQ(f.integer("whole", 1, 5), 4);
    EXPECT_EQ(f.number("x", 0, 1), 0.5);
    EXPECT_EQ(f.boolean("yes"), true);
    EXPECT_EQ(f.text("text"), "t");
    EXPECT_EQ(f.texts("list", 2).size(), 2U);
    EXPECT_EQ(f.texts("text", 2).size(), 1U);
    EXPECT_FALSE(f.has("none"));
    EXPECT_FALSE(f.text("not there").has_value());
    EXPECT_EQ(f.object("object")->integer("deep", 0, 9), 7);

    EXPECT_EQ(refused([&] { (void)f.integer("n", 4, 5); }), "n");
    EXPECT_EQ(refused([&] { (void)f.integer("x", 0, 5); }), "x");
    EXPECT_EQ(refused([&] { (void)f.integer("text", 0, 5); }), "text");
    EXPECT_EQ(refused([&] { (void)f.number("x", 1, 2); }), "x");
    EXPECT_EQ(refused([&] { (void)f.text("n"); }), "n");
    EXPECT_EQ(refused([&] { (void)f.boolean("n"); }), "n");
    EXPECT_EQ(refused([&] { (void)f.texts("list", 1); }), "list");
    EXPECT_EQ(refused([&] { (void)f.need("none"); }), "none");
    EXPECT_EQ(refused([&] { (void)f.object("object")->integer("deep", 0, 1); }), "object.deep");
}

TEST(RequestFields, NumbersAtTheEdges) {
    const RequestJson json = read_body(
        R"({"large": 18446744073709551615, "small": -9223372036854775808, "huge": 1e300})");
    const Fields f(json);
    EXPECT_EQ(refused([&] { (void)f.integer("large", 0, INT64_MAX); }), "large");
    EXPECT_EQ(f.integer("small", INT64_MIN, 0), INT64_MIN);
    EXPECT_EQ(refused([&] { (void)f.integer("huge", 0, INT64_MAX); }), "huge");
    EXPECT_EQ(refused([&] { (void)f.number("huge", 0, 1e9); }), "huge");
}

TEST(RequestFields, BodiesThatAreNoneAreRefused) {
    for (const std::string& body :
         {std::string(""), std::string("["), std::string("[]"), std::string("7"),
          std::string("{\"a\": NaN}"), std::string("{\"a\": 1e999}"),
          std::string("{\"a\": \"\xff\"}"), std::string(R"({"a": "\ud800"})"),
          std::string(R"({"a": "\udc00x"})"),
          "{\"a\":" + std::string(100000, '[') + std::string(100000, ']') + "}",
          std::string("{\"a\": 1} x")}) {
        EXPECT_THROW((void)read_body(body), ApiError) << body.substr(0, 40);
    }
    EXPECT_EQ(read_body(R"({"a": "\ud83d\ude00"})")["a"], "\xF0\x9F\x98\x80");
}

}  // namespace
}  // namespace palimpsest
