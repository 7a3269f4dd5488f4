#include "api/embeddings.h"

#include <bit>
#include <cmath>
#include <limits>

#include "api/fields.h"

namespace mlxf::api {
namespace {

using Unexpected = tl::unexpected<ApiError>;

constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
constexpr int64_t kDimensionsMax = 1 << 20;

// A string, strings, a list of token ids, or several.
void read_input(Fields& fields, std::string_view name, EmbedCall& call) {
  const Json* input = fields.find(name);
  if (input == nullptr) return fields.fail(ErrorKind::kInvalidRequest, name, "is missing");
  if (input->is_string()) {
    call.inputs.emplace_back(input->get<std::string>());
    return;
  }
  constexpr const char* kForms = "must be a string, token ids, or an array of one of them";
  if (!input->is_array() || input->empty()) return fields.fail(ErrorKind::kInvalidRequest, name, kForms);
  const auto tokens_of = [&](const Json& list) {
    std::vector<TokenId> tokens;
    tokens.reserve(list.size());
    for (const Json& id : list) {
      if (!id.is_number_integer() || id < 0 || id > std::numeric_limits<TokenId>::max())
        return std::vector<TokenId>();
      tokens.push_back(id.get<TokenId>());
    }
    return tokens;
  };
  if (input->front().is_number()) {
    call.inputs.emplace_back(tokens_of(*input));
  } else {
    if (input->size() > kEmbeddingInputsMax)
      return fields.fail(ErrorKind::kTooLarge, name,
                         "has " + std::to_string(input->size()) + " entries, at most " +
                             std::to_string(kEmbeddingInputsMax) + " are taken");
    for (const Json& entry : *input) {
      if (entry.is_string()) {
        call.inputs.emplace_back(entry.get<std::string>());
      } else if (entry.is_array()) {
        call.inputs.emplace_back(tokens_of(entry));
      } else {
        return fields.fail(ErrorKind::kInvalidRequest, name, kForms);
      }
    }
  }
  for (const auto& entry : call.inputs)
    if (const auto* tokens = std::get_if<std::vector<TokenId>>(&entry); tokens != nullptr && tokens->empty())
      return fields.fail(ErrorKind::kInvalidRequest, name, kForms);
}

void read_dimensions(Fields& fields, EmbedCall& call) {
  call.dimensions = static_cast<uint32_t>(fields.integer("dimensions", 1, kDimensionsMax).value_or(0));
}

tl::expected<EmbedCall, ApiError> checked(const Fields& fields, EmbedCall call) {
  if (fields.error()) return Unexpected(*fields.error());
  for (const std::string& name : fields.unknown())
    call.warnings.push_back("unknown field " + name + " ignored");
  return call;
}

tl::expected<EmbedCall, ApiError> parse_openai(const Json& body) {
  EmbedCall call;
  Fields fields(body);
  call.model = fields.text("model").value_or("");
  read_input(fields, "input", call);
  read_dimensions(fields, call);
  const std::string format = fields.text("encoding_format").value_or("float");
  call.base64 = format == "base64";
  if (!call.base64 && format != "float")
    fields.fail(ErrorKind::kInvalidRequest, "encoding_format", "must be \"float\" or \"base64\"");
  fields.accept("user");
  return checked(fields, std::move(call));
}

// What both of Ollama's forms have.
void read_ollama(Fields& fields, EmbedCall& call) {
  call.model = fields.text("model").value_or("");
  if (call.model.empty()) fields.fail(ErrorKind::kInvalidRequest, "model", "is required");
  call.truncate = fields.flag("truncate").value_or(true);
  if (const Json* object = fields.object("options")) {
    Fields options(*object, "options.");
    call.context_tokens = static_cast<uint32_t>(options.integer("num_ctx", 1, kMost).value_or(0));
    if (options.error()) fields.fail(options.error()->kind, "options", options.error()->message);
    for (const std::string& name : options.unknown())
      call.warnings.push_back(name + " has no effect on embeddings");
  }
  call.keep_alive = fields.duration("keep_alive");
}

tl::expected<EmbedCall, ApiError> parse_embed(const Json& body) {
  EmbedCall call;
  Fields fields(body);
  read_ollama(fields, call);
  read_input(fields, "input", call);
  read_dimensions(fields, call);
  return checked(fields, std::move(call));
}

tl::expected<EmbedCall, ApiError> parse_one_embedding(const Json& body) {
  EmbedCall call;
  Fields fields(body);
  read_ollama(fields, call);
  const auto prompt = fields.text("prompt");
  if (!prompt) fields.fail(ErrorKind::kInvalidRequest, "prompt", "is missing");
  call.inputs.emplace_back(prompt.value_or(""));
  return checked(fields, std::move(call));
}

std::string bytes_of(const std::vector<float>& vector) {
  static_assert(std::endian::native == std::endian::little);
  return base64_text(vector.data(), vector.size() * sizeof(float));
}

std::string openai_answer(const EmbedCall& call, const Embeddings& embeddings) {
  Json data = Json::array();
  for (size_t i = 0; i < embeddings.vectors.size(); ++i) {
    const std::vector<float>& vector = embeddings.vectors[i];
    data.push_back({{"object", "embedding"},
                    {"index", i},
                    {"embedding", call.base64 ? Json(bytes_of(vector)) : Json(vector)}});
  }
  return dump_json(
      {{"object", "list"},
       {"data", std::move(data)},
       {"model", embeddings.model},
       {"usage", {{"prompt_tokens", embeddings.prompt_tokens}, {"total_tokens", embeddings.prompt_tokens}}}});
}

uint64_t nanoseconds(double seconds) { return static_cast<uint64_t>(seconds * 1e9); }

std::string embed_answer(const EmbedCall& call, const Embeddings& embeddings) {
  return dump_json({{"model", call.model},
                    {"embeddings", embeddings.vectors},
                    {"total_duration", nanoseconds(embeddings.seconds)},
                    {"load_duration", nanoseconds(embeddings.load_seconds)},
                    {"prompt_eval_count", embeddings.prompt_tokens}});
}

std::string one_embedding_answer(const EmbedCall&, const Embeddings& embeddings) {
  return dump_json({{"embedding", embeddings.vectors.front()}});
}

}  // namespace

const EmbedEndpoint& openai_embeddings() {
  static constexpr EmbedEndpoint kEndpoint{Protocol::kOpenAi, parse_openai, openai_answer};
  return kEndpoint;
}

const EmbedEndpoint& ollama_embed() {
  static constexpr EmbedEndpoint kEndpoint{Protocol::kOllama, parse_embed, embed_answer};
  return kEndpoint;
}

const EmbedEndpoint& ollama_embeddings() {
  static constexpr EmbedEndpoint kEndpoint{Protocol::kOllama, parse_one_embedding, one_embedding_answer};
  return kEndpoint;
}

void shorten(std::vector<float>& vector, uint32_t dimensions) {
  vector.resize(dimensions);
  double squares = 0;
  for (const float value : vector) squares += double{value} * value;
  const auto scale = static_cast<float>(squares > 0 ? 1 / std::sqrt(squares) : 0);
  for (float& value : vector) value *= scale;
}

std::string base64_text(const void* bytes, size_t count) {
  constexpr char kDigits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  const auto* in = static_cast<const uint8_t*>(bytes);
  std::string text;
  text.reserve((count + 2) / 3 * 4);
  for (size_t i = 0; i < count; i += 3) {
    const size_t here = std::min<size_t>(3, count - i);
    uint32_t group = 0;
    for (size_t k = 0; k < 3; ++k) group = group << 8 | (k < here ? in[i + k] : 0u);
    for (size_t k = 0; k < 4; ++k) text += k <= here ? kDigits[group >> (18 - 6 * k) & 63] : '=';
  }
  return text;
}

}  // namespace mlxf::api
