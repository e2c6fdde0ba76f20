#include <curl/curl.h>

#include <algorithm>
#include <boost/property_tree/ptree.hpp>
#include <boost/property_tree/xml_parser.hpp>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <sstream>
#include <thread>
#include <utility>

#include "core/error.h"
#include "server/sessions/object_store.h"

namespace palimpsest {

namespace {

constexpr std::string_view kScheme = "s3://";
constexpr int kTries = 3;
constexpr auto kPause = std::chrono::milliseconds(200);
constexpr long kConnectSeconds = 5;
// A transfer that stands still is over.
constexpr long kLeastBytesASecond = 1024;
constexpr long kSlowSeconds = 20;
constexpr curl_off_t kMostBytes = curl_off_t{16} << 30;

std::string environment(const char* name) {
    const char* const value = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets any
    return value == nullptr ? "" : value;
}

std::string needed(const char* name) {
    std::string value = environment(name);
    require(!value.empty(), "conversations in a bucket need ", name, " in the environment");
    return value;
}

struct CurlDeleter {
    void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
    void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};
using CurlHandle = std::unique_ptr<CURL, CurlDeleter>;
using CurlHeaders = std::unique_ptr<curl_slist, CurlDeleter>;

struct Request {
    std::string method = "GET";
    std::string name = {};   // of an object; empty: the bucket
    std::string query = {};  // in the alphabet's order, as signatures want it
    std::string_view body = {};
    std::vector<std::string> headers = {};
};

struct Response {
    long status = 0;  // 0: there was none
    std::string body = {}, version = {}, failure = {};
    curl_off_t bytes = 0;
};

size_t take_body(char* data, size_t size, size_t n, void* to) {
    auto& body = static_cast<Response*>(to)->body;
    if (body.size() + size * n > static_cast<size_t>(kMostBytes)) return 0;
    try {
        body.append(data, size * n);
    } catch (const std::exception&) {
        return 0;
    }
    return size * n;
}

size_t take_header(char* data, size_t size, size_t n, void* to) {
    constexpr std::string_view kVersion = "etag:";
    std::string_view line(data, size * n);
    const bool is_version =
        line.size() > kVersion.size() &&
        std::ranges::equal(line.substr(0, kVersion.size()), kVersion,
                           [](char a, char b) { return (a | 0x20) == (b | 0x20); });
    if (is_version) {
        line.remove_prefix(kVersion.size());
        while (line.starts_with(' ')) line.remove_prefix(1);
        while (line.ends_with('\r') || line.ends_with('\n')) line.remove_suffix(1);
        static_cast<Response*>(to)->version = line;
    }
    return size * n;
}

struct Upload {
    std::string_view rest;
};

size_t give_body(char* to, size_t size, size_t n, void* from) {
    auto& rest = static_cast<Upload*>(from)->rest;
    const size_t count = rest.copy(to, size * n);
    rest.remove_prefix(count);
    return count;
}

/// Handles keep connections, so they are used again.
class Handles {
 public:
    CurlHandle take() {
        const std::scoped_lock guard(mutex_);
        if (idle_.empty()) return CurlHandle(curl_easy_init());
        CurlHandle handle = std::move(idle_.back());
        idle_.pop_back();
        return handle;
    }
    void give_back(CurlHandle handle) {
        const std::scoped_lock guard(mutex_);
        idle_.push_back(std::move(handle));
    }

 private:
    std::mutex mutex_;
    std::vector<CurlHandle> idle_;
};

std::string escaped(std::string_view text) {
    const std::unique_ptr<char, decltype(&curl_free)> made(
        curl_easy_escape(nullptr, text.data(), static_cast<int>(text.size())), curl_free);
    return made == nullptr ? "" : made.get();
}

class Bucket final : public ObjectStore {
 public:
    explicit Bucket(std::string_view address) {
        static const CURLcode started = curl_global_init(CURL_GLOBAL_DEFAULT);
        check(started == CURLE_OK, "libcurl does not start");
        address.remove_prefix(kScheme.size());
        const size_t end = std::min(address.find('/'), address.size());
        const std::string bucket(address.substr(0, end));
        prefix_ = address.substr(std::min(end + 1, address.size()));
        while (prefix_.ends_with('/')) prefix_.pop_back();
        if (!prefix_.empty()) prefix_ += '/';
        const auto is_plain = [](char c) {
            return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                   c == '-' || c == '_' || c == '.' || c == '/';
        };
        require(!bucket.empty() && std::ranges::all_of(bucket + prefix_, is_plain) &&
                    (bucket + prefix_).find("..") == std::string::npos,
                "'", kScheme, address, "' is no address of a bucket: s3://BUCKET/PREFIX, of ",
                "letters, digits, '-', '_' and '.'");
        user_ = cat(needed("AWS_ACCESS_KEY_ID"), ":", needed("AWS_SECRET_ACCESS_KEY"));
        token_ = environment("AWS_SESSION_TOKEN");
        std::string region = environment("AWS_REGION");
        if (region.empty()) region = environment("AWS_DEFAULT_REGION");
        if (region.empty()) region = "us-east-1";
        std::string endpoint = environment("AWS_ENDPOINT_URL_S3");
        if (endpoint.empty()) endpoint = environment("AWS_ENDPOINT_URL");
        if (endpoint.empty()) endpoint = cat("https://s3.", region, ".amazonaws.com");
        while (endpoint.ends_with('/')) endpoint.pop_back();
        url_ = cat(endpoint, "/", bucket);
        signature_ = cat("aws:amz:", region, ":s3");
    }

    [[nodiscard]] bool is_shared() const override { return true; }

    [[nodiscard]] std::vector<std::string> list(const std::string& folder) override {
        std::vector<std::string> names;
        const std::string within = folder.empty() ? prefix_ : cat(prefix_, folder, "/");
        std::string next;
        do {
            const std::string from =
                next.empty() ? "" : cat("continuation-token=", escaped(next), "&");
            const Response r =
                answered({.query = cat(from, "list-type=2&prefix=", escaped(within))});
            next = add_names(r.body, names);
        } while (!next.empty());
        return names;
    }

    [[nodiscard]] std::optional<Object> read(const std::string& name) override {
        Response r = answered({.name = name});
        if (r.status == 404) return std::nullopt;
        return Object{.content = std::move(r.body), .version = std::move(r.version)};
    }

    [[nodiscard]] std::optional<int64_t> size(const std::string& name) override {
        const Response r = answered({.method = "HEAD", .name = name});
        if (r.status == 404) return std::nullopt;
        return r.bytes;
    }

    std::string write(const std::string& name, std::string_view content,
                      const std::optional<std::string>& replaces) override {
        Request request = {.method = "PUT", .name = name, .body = content};
        if (replaces) {
            request.headers.push_back(replaces->empty() ? "If-None-Match: *"
                                                        : cat("If-Match: ", *replaces));
        }
        Response r = answered(request);
        // 409: another writes it at this moment. 404: it was removed.
        if (r.status == 412 || r.status == 409 || r.status == 404) {
            // What was written, but whose answer was lost, is tried again, and is in its own way.
            const auto there = read(name);
            if (there && there->content == content) return there->version;
            throw ObjectConflict(cat("'", name, "' was written by another"));
        }
        return std::move(r.version);
    }

    void remove(const std::string& name) override {
        static_cast<void>(answered({.method = "DELETE", .name = name}));
    }

 private:
    /// Status 2xx, 404, 409 or 412; else throws.
    Response answered(const Request& request) {
        Response r;
        for (int i = 0; i < kTries; ++i) {
            if (i > 0) std::this_thread::sleep_for(i * kPause);
            r = send(request);
            const bool is_answer = (r.status >= 200 && r.status < 300) || r.status == 404 ||
                                   r.status == 409 || r.status == 412;
            if (is_answer) return r;
            if (r.status >= 400 && r.status < 500 && r.status != 429) break;  // nor will it later
        }
        throw Error(ErrorCode::kUnwritable,
                    r.status == 0
                        ? cat("the bucket cannot be reached: ", r.failure)
                        : cat("the bucket answers with status ", r.status, reason_in(r.body)));
    }

    Response send(const Request& request) {
        CurlHandle handle = handles_.take();
        if (handle == nullptr) throw std::bad_alloc();
        CURL* const c = handle.get();
        curl_easy_reset(c);
        Response r;
        Upload upload = {request.body};
        CurlHeaders headers;
        const auto header = [&headers](const std::string& line) {
            curl_slist* const longer = curl_slist_append(headers.get(), line.c_str());
            if (longer == nullptr) throw std::bad_alloc();
            static_cast<void>(headers.release());
            headers.reset(longer);
        };
        for (const std::string& line : request.headers) header(line);
        header("x-amz-content-sha256: UNSIGNED-PAYLOAD");
        header("Expect:");
        if (!token_.empty()) header(cat("x-amz-security-token: ", token_));
        const std::string object = request.name.empty() ? "" : cat("/", prefix_, request.name);
        const std::string url =
            cat(url_, object, request.query.empty() ? "" : cat("?", request.query));
        curl_easy_setopt(c, CURLOPT_URL, url.c_str());
        curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, kConnectSeconds);
        curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, kLeastBytesASecond);
        curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, kSlowSeconds);
        curl_easy_setopt(c, CURLOPT_AWS_SIGV4, signature_.c_str());
        curl_easy_setopt(c, CURLOPT_USERPWD, user_.c_str());
        curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers.get());
        curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, take_body);
        curl_easy_setopt(c, CURLOPT_WRITEDATA, &r);
        curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, take_header);
        curl_easy_setopt(c, CURLOPT_HEADERDATA, &r);
        if (request.method == "PUT") {
            curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
            curl_easy_setopt(c, CURLOPT_READFUNCTION, give_body);
            curl_easy_setopt(c, CURLOPT_READDATA, &upload);
            curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE,
                             static_cast<curl_off_t>(request.body.size()));
        } else if (request.method == "HEAD") {
            curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
        } else if (request.method != "GET") {
            curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, request.method.c_str());
        }
        const CURLcode code = curl_easy_perform(c);
        if (code != CURLE_OK) {
            r.failure = curl_easy_strerror(code);
            return r;  // and the handle, which may be in the middle of something, goes
        }
        curl_easy_getinfo(c, CURLINFO_RESPONSE_CODE, &r.status);
        curl_easy_getinfo(c, CURLINFO_CONTENT_LENGTH_DOWNLOAD_T, &r.bytes);
        handles_.give_back(std::move(handle));
        return r;
    }

    /// Adds names in a listing, and returns where the next one goes on; empty: it was the last.
    std::string add_names(const std::string& xml, std::vector<std::string>& names) const {
        namespace pt = boost::property_tree;
        pt::ptree tree;
        try {
            std::istringstream in(xml);
            pt::read_xml(in, tree);
            const pt::ptree& result = tree.get_child("ListBucketResult");
            for (const auto& [tag, child] : result) {
                if (tag != "Contents") continue;
                const auto key = child.get<std::string>("Key");
                if (key.starts_with(prefix_)) names.push_back(key.substr(prefix_.size()));
            }
            return result.get("IsTruncated", "false") == "true"
                       ? result.get("NextContinuationToken", "")
                       : "";
        } catch (const pt::ptree_error&) {
            throw Error(ErrorCode::kCorrupt, "the bucket's list of objects is none");
        }
    }

    static std::string reason_in(const std::string& xml) {
        namespace pt = boost::property_tree;
        try {
            pt::ptree tree;
            std::istringstream in(xml);
            pt::read_xml(in, tree);
            return cat(" (", tree.get<std::string>("Error.Code"), ")");
        } catch (const pt::ptree_error&) {
            return "";
        }
    }

    std::string url_, prefix_, user_, token_, signature_;
    Handles handles_;
};

}  // namespace

std::unique_ptr<ObjectStore> open_bucket(const std::string& address) {
    return std::make_unique<Bucket>(address);
}

}  // namespace palimpsest
