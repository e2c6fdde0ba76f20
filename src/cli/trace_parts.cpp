#include "cli/trace_parts.h"

#include "cli/setup.h"
#include "core/error.h"
#include "text/json_text.h"

namespace palimpsest {

std::vector<TokenId> token_ids(const nlohmann::json& json, int64_t n_vocab,
                               const std::string& where) {
    const auto refuse = [&](const std::string& why) {
        throw Error(ErrorCode::kCorrupt, cat(where, " ", why));
    };
    if (!json.is_array()) refuse("is not a JSON array of token ids, or nests too deeply");
    std::vector<TokenId> tokens;
    for (const nlohmann::json& id : json) {
        if (!id.is_number_integer() || id < 0 || id >= n_vocab) {
            refuse(cat("holds ", brief_json(id), " at place ", tokens.size(),
                       "; ids are whole numbers from 0 to ", n_vocab - 1));
        }
        tokens.push_back(id.get<TokenId>());
    }
    return tokens;
}

TraceParts read_trace_parts(const std::string& path, const LatentRegions& regions,
                            int64_t n_vocab) {
    const nlohmann::json json = parse_json(read_file(path));
    if (!json.is_array()) {
        throw Error(ErrorCode::kCorrupt, cat("'", path, "' is not a JSON array of parts"));
    }
    TraceParts all;
    for (size_t i = 0; i < json.size(); ++i) {
        const nlohmann::json& part = json[i];
        const bool is_text = part.is_object() && part.contains("text");
        if (!part.is_object() || part.size() != 1 || (!is_text && !part.contains("region"))) {
            throw Error(ErrorCode::kCorrupt,
                        cat("part ", i, " of '", path, "' is ", brief_json(part),
                            "; it must be {\"text\": [ids]} or {\"region\": [ids]}"));
        }
        const std::string where = cat("part ", i, " of '", path, "'");
        if (is_text) {
            all.prompt.push_back({.tokens = token_ids(part["text"], n_vocab, where)});
            continue;
        }
        const int64_t n_encoder = regions.encoder().model().config().n_vocab;
        all.regions.push_back(token_ids(part["region"], n_encoder, where));
        for (Segment& s : regions.region_of(all.regions.back())) {
            all.prompt.push_back(std::move(s));
        }
    }
    return all;
}

}  // namespace palimpsest
