#include "text/chat_template.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "formats/manifest.h"
#include "text/bridge.h"
#include "text/model_files.h"
#include "text/utf8.h"

namespace mlxf::text {

struct ChatTemplate::Compiled {
  TemplateHandle handle;
  std::string source;
  Json special_tokens = Json::object();  // "bos_token" and its like, as the template's variables.
};

namespace {

int64_t local_seconds() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  if (localtime_r(&now, &local) == nullptr) return now;
  return static_cast<int64_t>(now) + local.tm_gmtoff;
}

Result<ChatTemplate> compile(std::string source, Json special_tokens) {
  if (!is_utf8(source)) return fail(ErrorCode::kCorrupt, "the chat template is not UTF-8");
  auto compiled = std::make_shared<ChatTemplate::Compiled>();
  mlxf_template* handle = nullptr;
  BridgeBytes error;
  const int32_t code = mlxf_template_create(as_bytes(source), source.size(), &handle, error.out());
  if (code != MLXF_BRIDGE_OK) return tl::unexpected<Error>(bridge_error(code, error).within("chat template"));
  compiled->handle.reset(handle);
  compiled->source = std::move(source);
  compiled->special_tokens = std::move(special_tokens);
  return ChatTemplate(std::move(compiled));
}

std::string utf8_of(uint32_t code_point) {  // REQUIRES: a supplementary character, as all marks are.
  return {static_cast<char>(0xF0 | (code_point >> 18)), static_cast<char>(0x80 | ((code_point >> 12) & 0x3F)),
          static_cast<char>(0x80 | ((code_point >> 6) & 0x3F)),
          static_cast<char>(0x80 | (code_point & 0x3F))};
}

Result<Json> special_tokens_of(const formats::ModelManifest& manifest) {
  Json tokens = Json::object();
  if (manifest.container == formats::Container::kSafetensors) {
    ASSIGN_OR_RETURN(const Json config, load_model_json(manifest, "tokenizer_config.json"));
    for (const char* key :
         {"bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"}) {
      if (auto text = find_token_member(config, key)) tokens[key] = std::move(*text);
    }
    return tokens;
  }
  const auto spellings = manifest.metadata.find_strings("tokenizer.ggml.tokens");
  for (const char* name : {"bos", "eos", "unknown", "padding"}) {
    const auto id = manifest.metadata.find_int(std::string("tokenizer.ggml.") + name + "_token_id");
    if (!spellings || !id || *id < 0 || *id >= static_cast<int64_t>(spellings->size())) continue;
    const std::string_view spelling = (*spellings)[static_cast<size_t>(*id)];
    if (!is_utf8(spelling)) continue;
    const std::string_view key(name);
    tokens[key == "unknown"   ? "unk_token"
           : key == "padding" ? "pad_token"
                              : std::string(key) + "_token"] = spelling;
  }
  return tokens;
}

// A prompt without its marks, and where they were: offsets into `text`, ascending.
struct Unmarked {
  std::string text;
  std::vector<size_t> marks;

  // True if a mark lies inside [begin, end) or directly behind it.
  [[nodiscard]] bool marked_within(size_t begin, size_t end) const {
    const auto after = std::upper_bound(marks.begin(), marks.end(), begin);
    return after != marks.end() && *after <= end;
  }
};

Unmarked remove_marks(const RenderedPrompt& prompt) {
  Unmarked out;
  const std::string_view marked = prompt.marked;
  size_t position = 0;
  while (position < marked.size()) {
    const size_t next = prompt.mark.empty() ? std::string_view::npos : marked.find(prompt.mark, position);
    out.text += marked.substr(position, next == std::string_view::npos ? next : next - position);
    if (next == std::string_view::npos) break;
    out.marks.push_back(out.text.size());
    position = next + prompt.mark.size();
  }
  return out;
}

// A stretch of a prompt, and whether control tokens in it count.
struct Stretch {
  size_t begin = 0;
  size_t end = 0;
  bool parse_special = true;
};

// Cuts a prompt at the template's own control tokens, so that look-alikes stand in stretches without any.
// Neighbouring stretches that parse alike are one; without look-alikes that is the whole prompt.
std::vector<Stretch> find_stretches(const Tokenizer& tokenizer, const Unmarked& prompt) {
  std::vector<Stretch> stretches;
  const auto add = [&](size_t begin, size_t end, bool parse_special) {
    if (begin == end) return;
    if (!stretches.empty() && stretches.back().parse_special == parse_special) {
      stretches.back().end = end;
    } else {
      stretches.push_back({begin, end, parse_special});
    }
  };
  size_t plain_begin = 0;
  bool plain_has_lookalike = false;
  for (size_t position = 0; position < prompt.text.size();) {
    const size_t length = tokenizer.control_prefix(std::string_view(prompt.text).substr(position));
    if (length == 0) {
      ++position;
    } else if (prompt.marked_within(position, position + length)) {
      plain_has_lookalike = true;
      ++position;
    } else {
      add(plain_begin, position, !plain_has_lookalike);
      add(position, position + length, true);
      position += length;
      plain_begin = position;
      plain_has_lookalike = false;
    }
  }
  add(plain_begin, prompt.text.size(), !plain_has_lookalike);
  return stretches;
}

}  // namespace

std::string RenderedPrompt::text() const { return remove_marks(*this).text; }

Result<RenderedPrompt> ChatTemplate::render(const OrderedJson& messages, const RenderOptions& options) const {
  if (!messages.is_array()) return fail(ErrorCode::kInvalidArgument, "messages are not an array");
  if (!options.variables.is_object())
    return fail(ErrorCode::kInvalidArgument, "template variables are not an object");
  Json trusted = compiled_->special_tokens;
  trusted["add_generation_prompt"] = options.add_generation_prompt;
  if (options.enable_thinking) trusted["enable_thinking"] = *options.enable_thinking;
  OrderedJson variables = options.variables;
  variables["messages"] = messages;
  // The ecosystem passes `tools` and `documents` always, and templates ask whether they are none.
  variables["tools"] = options.tools;
  if (!variables.contains("documents")) variables["documents"] = nullptr;
  const std::string trusted_text = dump_json(trusted);
  const std::string variables_text = dump_ordered_json(variables);
  BridgeBytes output;
  BridgeBytes error;
  uint32_t mark = 0;
  const int32_t code = mlxf_template_render(
      compiled_->handle.get(), as_bytes(trusted_text), trusted_text.size(), as_bytes(variables_text),
      variables_text.size(), options.now_seconds.value_or(local_seconds()), output.out(), &mark, error.out());
  if (code != MLXF_BRIDGE_OK) return tl::unexpected<Error>(bridge_error(code, error).within("chat template"));
  return RenderedPrompt{.marked = output.text(), .mark = utf8_of(mark)};
}

std::string_view ChatTemplate::source() const { return compiled_->source; }

Result<ChatTemplate> load_chat_template(const formats::ModelManifest& manifest, std::string_view name) {
  ASSIGN_OR_RETURN(auto source, find_template_source(manifest, name));
  if (!source) {
    return fail(ErrorCode::kNotFound,
                "the model has no chat template" +
                    (name == "default" ? std::string() : " called " + std::string(name)) + ": " +
                    manifest.path);
  }
  ASSIGN_OR_RETURN(Json special_tokens, special_tokens_of(manifest));
  return compile(std::move(*source), std::move(special_tokens));
}

Result<ChatTemplate> parse_chat_template(std::string_view source, std::string_view bos_token,
                                         std::string_view eos_token) {
  Json special_tokens = Json::object();
  special_tokens["bos_token"] = bos_token;
  special_tokens["eos_token"] = eos_token;
  return compile(std::string(source), std::move(special_tokens));
}

Result<std::vector<TokenId>> encode_prompt(const Tokenizer& tokenizer, const RenderedPrompt& prompt) {
  const Unmarked unmarked = remove_marks(prompt);
  std::vector<TokenId> ids;
  for (const Stretch& stretch : find_stretches(tokenizer, unmarked)) {
    ASSIGN_OR_RETURN(
        const std::vector<TokenId> part,
        tokenizer.encode(std::string_view(unmarked.text).substr(stretch.begin, stretch.end - stretch.begin),
                         {.add_special_tokens = false, .parse_special = stretch.parse_special}));
    ids.insert(ids.end(), part.begin(), part.end());
  }
  return ids;
}

}  // namespace mlxf::text
