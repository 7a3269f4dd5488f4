#include "text/tokenizer.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <unordered_set>
#include <utility>

#include "formats/manifest.h"
#include "text/bridge.h"
#include "text/gguf_vocabulary.h"
#include "text/model_files.h"
#include "text/utf8.h"

namespace mlxf::text {

// What is to be done to the post-processor's first or last token.
enum class Change : uint8_t { kNone, kAdd, kRemove };

struct Tokenizer::Tables {
  TokenizerHandle handle;
  mlxf_vocabulary vocabulary{};  // Points into `handle`.
  std::optional<TokenId> bos;
  std::optional<TokenId> eos;
  std::vector<TokenId> end_of_generation;  // Ascending.
  Change bos_change = Change::kNone;
  Change eos_change = Change::kNone;
  std::unordered_set<std::string> control_tokens;
  std::array<bool, 256> control_first_bytes{};
  std::vector<size_t> control_lengths;  // Distinct, descending.
};

namespace {

constexpr uint64_t kTokenizerBytesMax = uint64_t{256} << 20;

// Tokens that end a turn in some family and that not every conversion lists among its ids.
constexpr std::array<std::string_view, 10> kTurnEnds = {
    "<|im_end|>",      "<|eot_id|>", "<|eom_id|>", "<end_of_turn>",         "<turn|>",
    "<|end_of_text|>", "<|return|>", "<|call|>",   "<｜end▁of▁sentence｜>", "<|endoftext|>"};

void index_control_tokens(Tokenizer::Tables& tables) {
  for (size_t id = 0; id < tables.vocabulary.count; ++id) {
    if ((tables.vocabulary.flags[id] & MLXF_TOKEN_CONTROL) == 0) continue;
    std::string text =
        BridgeBytes(mlxf_tokenizer_spelling(tables.handle.get(), static_cast<uint32_t>(id))).text();
    if (text.empty()) continue;
    tables.control_first_bytes[static_cast<uint8_t>(text.front())] = true;
    tables.control_lengths.push_back(text.size());
    tables.control_tokens.insert(std::move(text));
  }
  std::vector<size_t>& lengths = tables.control_lengths;
  std::sort(lengths.begin(), lengths.end(), std::greater<>());
  lengths.erase(std::unique(lengths.begin(), lengths.end()), lengths.end());
}

Result<std::shared_ptr<Tokenizer::Tables>> create_tables(std::string_view json,
                                                         std::string_view template_source) {
  auto tables = std::make_shared<Tokenizer::Tables>();
  mlxf_tokenizer* handle = nullptr;
  BridgeBytes error;
  const int32_t code = mlxf_tokenizer_create(as_bytes(json), json.size(), as_bytes(template_source),
                                             template_source.size(), &handle, error.out());
  if (code != MLXF_BRIDGE_OK) return tl::unexpected<Error>(bridge_error(code, error));
  tables->handle.reset(handle);
  tables->vocabulary = mlxf_tokenizer_vocabulary(handle);
  index_control_tokens(*tables);
  return tables;
}

Result<TokenId> checked_id(int64_t id, const mlxf_vocabulary& vocabulary, const char* what) {
  if (id < 0 || id >= static_cast<int64_t>(vocabulary.count)) {
    return fail(ErrorCode::kCorrupt, std::string(what) + " token id " + std::to_string(id) +
                                         " lies outside the vocabulary of " +
                                         std::to_string(vocabulary.count));
  }
  return static_cast<TokenId>(id);
}

std::optional<TokenId> find_in(const Tokenizer::Tables& tables, std::string_view text) {
  const int64_t id = mlxf_tokenizer_find(tables.handle.get(), as_bytes(text), text.size());
  if (id < 0) return std::nullopt;
  return static_cast<TokenId>(id);
}

// As tokenizer.json has it.
Result<std::vector<TokenId>> encode_with(const Tokenizer::Tables& tables, std::string_view text,
                                         const EncodeOptions& options) {
  BridgeBytes ids;
  BridgeBytes error;
  const int32_t code = mlxf_tokenizer_encode(tables.handle.get(), as_bytes(text), text.size(),
                                             options.add_special_tokens ? 1 : 0,
                                             options.parse_special ? 1 : 0, ids.out(), error.out());
  if (code != MLXF_BRIDGE_OK) return tl::unexpected<Error>(bridge_error(code, error));
  std::vector<TokenId> out(ids.size() / sizeof(TokenId));
  if (!out.empty()) std::memcpy(out.data(), ids.data(), ids.size());
  return out;
}

Status set_boundaries(const BoundaryTokens& found, Tokenizer::Tables& tables) {
  // The spelling wins: tokenizer_config.json belongs to the tokenizer, ids in config.json to the model.
  if (found.bos_text) tables.bos = find_in(tables, *found.bos_text);
  if (!tables.bos && found.bos_id) {
    ASSIGN_OR_RETURN(tables.bos, checked_id(*found.bos_id, tables.vocabulary, "bos"));
  }
  if (found.eos_text) tables.eos = find_in(tables, *found.eos_text);
  if (!tables.eos && found.eos_id) {
    ASSIGN_OR_RETURN(tables.eos, checked_id(*found.eos_id, tables.vocabulary, "eos"));
  }
  std::vector<TokenId>& ends = tables.end_of_generation;
  if (tables.eos) ends.push_back(*tables.eos);
  for (const int64_t id : found.end_ids) {
    ASSIGN_OR_RETURN(const TokenId checked, checked_id(id, tables.vocabulary, "eos"));
    ends.push_back(checked);
  }
  for (const std::string_view text : kTurnEnds) {
    const auto id = find_in(tables, text);
    if (id && (tables.vocabulary.flags[*id] & MLXF_TOKEN_CONTROL) != 0) ends.push_back(*id);
  }
  std::sort(ends.begin(), ends.end());
  ends.erase(std::unique(ends.begin(), ends.end()), ends.end());
  return {};
}

// tokenizer_config.json's add_bos_token and add_eos_token decide; what the post-processor does to an empty text tells
// whether a token has to be put in or taken out.
Status set_added_tokens(const BoundaryTokens& found, Tokenizer::Tables& tables) {
  ASSIGN_OR_RETURN(const std::vector<TokenId> added, encode_with(tables, "", {}));
  const auto change = [](std::optional<bool> wanted, bool present) {
    if (!wanted || *wanted == present) return Change::kNone;
    return *wanted ? Change::kAdd : Change::kRemove;
  };
  if (tables.bos) tables.bos_change = change(found.add_bos, !added.empty() && added.front() == *tables.bos);
  if (tables.eos) tables.eos_change = change(found.add_eos, !added.empty() && added.back() == *tables.eos);
  return {};
}

void apply_changes(const Tokenizer::Tables& tables, std::vector<TokenId>& ids) {
  if (tables.bos_change == Change::kAdd) ids.insert(ids.begin(), *tables.bos);
  if (tables.bos_change == Change::kRemove && !ids.empty()) ids.erase(ids.begin());
  if (tables.eos_change == Change::kAdd) ids.push_back(*tables.eos);
  if (tables.eos_change == Change::kRemove && !ids.empty()) ids.pop_back();
}

Result<std::string> load_tokenizer_json(const formats::ModelManifest& manifest) {
  if (manifest.container == formats::Container::kGguf) return tokenizer_json_from_gguf(manifest.metadata);
  ASSIGN_OR_RETURN(auto json, find_model_file(manifest, "tokenizer.json", kTokenizerBytesMax));
  if (json) return std::move(*json);
  return fail(ErrorCode::kNotFound,
              "no tokenizer.json beside " +
                  (manifest.files.empty() ? manifest.path : manifest.files.front()) +
                  "; other vocabulary files (tokenizer.model, vocab.json) are not read");
}

// A GGUF vocabulary is padded to the embedding table's rows, so the two must agree.
Status check_embedding_rows(const formats::ModelManifest& manifest) {
  if (manifest.container != formats::Container::kGguf) return {};
  const formats::TensorEntry* embedding = manifest.find("token_embd.weight");
  const auto* tokens = manifest.metadata.find_entry("tokenizer.ggml.tokens");
  if (embedding == nullptr || embedding->shape.size() != 2 || tokens == nullptr) return {};
  if (embedding->shape[0] == tokens->count) return {};
  return fail(ErrorCode::kCorrupt, "tokenizer.ggml.tokens has " + std::to_string(tokens->count) +
                                       " elements, but token_embd.weight has " +
                                       std::to_string(embedding->shape[0]) + " rows");
}

}  // namespace

Result<std::vector<TokenId>> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  if (text.size() > kEncodeBytesMax) {
    return fail(ErrorCode::kInvalidArgument, "the text has " + std::to_string(text.size()) +
                                                 " bytes; at most " + std::to_string(kEncodeBytesMax) +
                                                 " can be encoded at once");
  }
  ASSIGN_OR_RETURN(std::vector<TokenId> ids, encode_with(*tables_, text, options));
  if (options.add_special_tokens) apply_changes(*tables_, ids);
  return ids;
}

Result<std::string> Tokenizer::decode(std::span<const TokenId> ids, SpecialTokens special) const {
  std::string out;
  Utf8Repair repair;
  bool strip = strips_leading_space();
  for (const TokenId id : ids) {
    if (id < 0 || static_cast<uint32_t>(id) >= vocab_size()) {
      return fail(ErrorCode::kInvalidArgument, "token id " + std::to_string(id) +
                                                   " lies outside the vocabulary of " +
                                                   std::to_string(vocab_size()));
    }
    if (special == SpecialTokens::kSkip && traits(id).special) continue;
    std::string_view bytes = token_bytes(id);
    if (strip && !bytes.empty()) {
      if (bytes.front() == ' ') bytes.remove_prefix(1);
      strip = false;
    }
    repair.append(bytes, out);
  }
  repair.finish(out);
  return out;
}

uint32_t Tokenizer::vocab_size() const { return static_cast<uint32_t>(tables_->vocabulary.count); }

std::string_view Tokenizer::token_bytes(TokenId id) const {
  const mlxf_vocabulary& vocabulary = tables_->vocabulary;
  if (id < 0 || static_cast<size_t>(id) >= vocabulary.count) return {};
  const uint32_t begin = vocabulary.offsets[id];
  return {reinterpret_cast<const char*>(vocabulary.bytes) + begin, vocabulary.offsets[id + 1] - begin};
}

std::string Tokenizer::token_text(TokenId id) const {
  if (id < 0) return {};
  return BridgeBytes(mlxf_tokenizer_spelling(tables_->handle.get(), static_cast<uint32_t>(id))).text();
}

std::optional<TokenId> Tokenizer::find_token(std::string_view text) const { return find_in(*tables_, text); }

TokenTraits Tokenizer::traits(TokenId id) const {
  const mlxf_vocabulary& vocabulary = tables_->vocabulary;
  if (id < 0 || static_cast<size_t>(id) >= vocabulary.count) return {};
  const uint8_t flags = vocabulary.flags[id];
  return {.special = (flags & MLXF_TOKEN_SPECIAL) != 0, .control = (flags & MLXF_TOKEN_CONTROL) != 0};
}

size_t Tokenizer::control_prefix(std::string_view text) const {
  if (text.empty() || !tables_->control_first_bytes[static_cast<uint8_t>(text.front())]) return 0;
  for (const size_t length : tables_->control_lengths) {
    if (length <= text.size() && tables_->control_tokens.contains(std::string(text.substr(0, length)))) {
      return length;
    }
  }
  return 0;
}

std::optional<TokenId> Tokenizer::bos() const { return tables_->bos; }
std::optional<TokenId> Tokenizer::eos() const { return tables_->eos; }
std::span<const TokenId> Tokenizer::end_of_generation() const { return tables_->end_of_generation; }

bool Tokenizer::is_end_of_generation(TokenId id) const {
  return std::binary_search(tables_->end_of_generation.begin(), tables_->end_of_generation.end(), id);
}

bool Tokenizer::strips_leading_space() const { return tables_->vocabulary.strips_leading_space != 0; }

const mlxf_tokenizer* Tokenizer::handle() const { return tables_->handle.get(); }

Result<Tokenizer> load_tokenizer(const formats::ModelManifest& manifest) {
  RETURN_IF_ERROR(check_embedding_rows(manifest));
  ASSIGN_OR_RETURN(const auto template_source, find_template_source(manifest, "default"));
  ASSIGN_OR_RETURN(const std::string json, load_tokenizer_json(manifest));
  auto tables = create_tables(json, template_source.value_or(""));
  if (!tables) return tl::unexpected<Error>(tables.error().within("tokenizer of " + manifest.path));
  ASSIGN_OR_RETURN(const BoundaryTokens boundaries, load_boundary_tokens(manifest));
  RETURN_IF_ERROR(set_boundaries(boundaries, **tables));
  RETURN_IF_ERROR(set_added_tokens(boundaries, **tables));
  return Tokenizer(std::move(*tables));
}

Result<Tokenizer> parse_tokenizer(std::string_view tokenizer_json) {
  ASSIGN_OR_RETURN(auto tables, create_tables(tokenizer_json, ""));
  return Tokenizer(std::move(tables));
}

}  // namespace mlxf::text
