// The page at /, and what it is made of: all in the program itself.

#include "server/api/routes.h"
#include "server/page_files.h"

namespace palimpsest {

namespace {

std::string_view type_of(std::string_view path) {
    if (path.ends_with(".js")) return "text/javascript; charset=utf-8";
    if (path.ends_with(".css")) return "text/css; charset=utf-8";
    if (path.ends_with(".svg")) return "image/svg+xml";
    if (path.ends_with(".html")) return "text/html; charset=utf-8";
    return "text/plain; charset=utf-8";
}

}  // namespace

void handle_page(Service& /*service*/, const Call& call) {
    const std::string& path = call.request().path;
    const std::string_view name = path == "/" ? "index.html" : std::string_view(path).substr(1);
    for (const PageFile& file : page_files()) {
        if (file.name != name) continue;
        call.exchange->answer(
            {.body = std::string(file.content),
             .content_type = std::string(type_of(name)),
             .headers = {{"Content-Security-Policy",
                          "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' "
                          "data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
                          "frame-ancestors 'none'"},
                         {"Referrer-Policy", "no-referrer"},
                         {"Cross-Origin-Opener-Policy", "same-origin"},
                         {"Cache-Control", "no-cache"}}});
        return;
    }
    throw ApiError(404, "there is nothing at this path");
}

}  // namespace palimpsest
