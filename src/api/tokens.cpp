#include "api/tokens.h"

#include <limits>

#include "api/fields.h"
#include "api/reply.h"

namespace mlxf::api {
namespace {

constexpr size_t kTokenizeBytesMax = size_t{4} << 20;  // A second or so, on a thread that others wait for.

}  // namespace

tl::expected<std::string, ApiError> tokenize(const Json& body, const text::Tokenizer& tokenizer) {
  Fields fields(body);
  const auto content = fields.text("content");
  text::EncodeOptions options;
  options.add_special_tokens = fields.flag("add_special").value_or(false);
  options.parse_special = fields.flag("parse_special").value_or(true);
  const bool with_pieces = fields.flag("with_pieces").value_or(false);
  fields.accept("model");
  if (!content) fields.fail(ErrorKind::kInvalidRequest, "content", "is missing");
  if (fields.error()) return tl::unexpected<ApiError>(*fields.error());
  if (content->size() > kTokenizeBytesMax)
    return tl::unexpected<ApiError>({ErrorKind::kTooLarge,
                                     "content is " + std::to_string(content->size()) +
                                         " bytes long, at most " + std::to_string(kTokenizeBytesMax) +
                                         " at a time are split",
                                     "content"});
  const auto ids = tokenizer.encode(*content, options);
  if (!ids) return tl::unexpected<ApiError>(from_request(ids.error()));
  Json tokens = Json::array();
  for (const TokenId id : *ids) {
    if (with_pieces) {
      tokens.push_back({{"id", id}, {"piece", shown_token(tokenizer, id)}});
    } else {
      tokens.push_back(id);
    }
  }
  return dump_json({{"tokens", std::move(tokens)}});
}

tl::expected<std::string, ApiError> detokenize(const Json& body, const text::Tokenizer& tokenizer) {
  Fields fields(body);
  const Json* list = fields.array("tokens");
  fields.accept("model");
  if (list == nullptr) fields.fail(ErrorKind::kInvalidRequest, "tokens", "is missing");
  if (list == nullptr || fields.error()) return tl::unexpected<ApiError>(*fields.error());
  std::vector<TokenId> ids;
  for (const Json& id : *list) {
    if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<TokenId>::max())
      return tl::unexpected<ApiError>({ErrorKind::kInvalidRequest, "tokens must be token ids", "tokens"});
    ids.push_back(id.get<TokenId>());
  }
  const auto content = tokenizer.decode(ids);
  if (!content) return tl::unexpected<ApiError>(from_request(content.error()));
  return dump_json({{"content", *content}});
}

}  // namespace mlxf::api
