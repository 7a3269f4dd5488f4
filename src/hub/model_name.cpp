#include "hub/model_name.h"

#include <algorithm>
#include <array>
#include <vector>

#include "formats/name_text.h"
#include "formats/shard_name.h"

namespace mlxf::hub {
namespace {

constexpr size_t kPartBytesMax = 96, kNameBytesMax = 256, kPathBytesMax = 512;
constexpr size_t kPartsMax = 3;
constexpr std::array<std::string_view, 4> kSources = {"mlx-flash", "hf", "lmstudio", "ollama"};

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }
char upper(char c) { return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c; }

std::vector<std::string_view> split(std::string_view text, std::string_view separators) {
  std::vector<std::string_view> parts;
  size_t begin = 0;
  for (size_t i = 0; i <= text.size(); ++i) {
    if (i < text.size() && separators.find(text[i]) == std::string_view::npos) continue;
    parts.push_back(text.substr(begin, i - begin));
    begin = i + 1;
  }
  return parts;
}

// Q4_K_M, IQ4_XS, TQ1_0, F16, BF16, MXFP4: letters that we know, a digit, then groups after "_".
bool is_quantisation(std::string_view word) {
  for (const std::string_view start : {"IQ", "TQ", "BF", "MXFP", "Q", "F"}) {
    if (word.substr(0, start.size()) != start) continue;
    const std::string_view rest = word.substr(start.size());
    size_t digits = 0;
    while (digits < rest.size() && is_digit(rest[digits])) ++digits;
    return digits != 0 && digits <= 2 && (digits == rest.size() || rest[digits] == '_');
  }
  return false;
}

tl::unexpected<Error> refuse(std::string_view text, const std::string& why) {
  return fail(ErrorCode::kInvalidArgument, "the model name " + formats::quoted_name(text) + " " + why +
                                               "; a name is ORG/NAME, ORG/NAME:QUANT or a path");
}

}  // namespace

bool same_ignoring_case(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return upper(x) == upper(y); });
}

const char* name_part_fault(std::string_view part) {
  if (part.empty()) return "has an empty part";
  if (part.size() > kPartBytesMax) return "has a part of more than 96 bytes";
  if (part.front() == '.' || part.front() == '-') return "has a part that begins with a dot or a dash";
  if (part.find("..") != std::string_view::npos) return "holds \"..\"";
  for (const char c : part)
    if (!is_digit(c) && !is_letter(c) && c != '.' && c != '_' && c != '-')
      return "holds a character other than letters, digits and \"._-\"";
  return nullptr;
}

const char* file_path_fault(std::string_view path) {
  if (path.empty() || path.size() > kPathBytesMax) return "is empty or too long";
  for (const char c : path)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f || c == '\\')
      return "holds a control character or a backslash";
  for (const std::string_view part : split(path, "/"))
    if (part.empty() || part == "." || part == ".." || part.size() > 255)
      return "leads out of the model's folder";
  return nullptr;
}

Result<ModelName> parse_model_name(std::string_view text) {
  if (text.empty() || text.size() > kNameBytesMax) return refuse(text, "is empty or too long");
  ModelName name;
  std::string_view rest = text;
  for (const std::string_view source : kSources) {
    if (rest.size() <= source.size() || rest.substr(0, source.size()) != source || rest[source.size()] != ':')
      continue;
    name.source = source;
    rest.remove_prefix(source.size() + 1);
    break;
  }
  const auto cut = [&](char at, std::string& into) -> const char* {
    const size_t found = rest.find(at);
    if (found == std::string_view::npos) return nullptr;
    into = rest.substr(found + 1);
    rest = rest.substr(0, found);
    return name_part_fault(into);
  };
  if (const char* fault = cut('@', name.revision)) return refuse(text, fault);
  if (const char* fault = cut(':', name.variant)) return refuse(text, fault);
  const std::vector<std::string_view> parts = split(rest, "/");
  if (parts.size() > kPartsMax) return refuse(text, "has too many parts");
  for (const std::string_view part : parts)
    if (const char* fault = name_part_fault(part)) return refuse(text, fault);
  name.name = rest;
  return name;
}

std::string quantisation_of(std::string_view file_name) {
  std::string stem(file_name);
  if (const auto shard = formats::parse_shard_name(stem)) {
    stem = shard->prefix;
  } else if (const size_t dot = stem.rfind('.'); dot != std::string::npos) {
    stem.resize(dot);
  }
  std::transform(stem.begin(), stem.end(), stem.begin(), upper);
  const std::vector<std::string_view> words = split(stem, "-.");
  for (size_t i = words.size(); i-- > 0;) {
    if (!is_quantisation(words[i])) continue;
    if (i > 0 && words[i - 1] == "UD") return "UD-" + std::string(words[i]);
    return std::string(words[i]);
  }
  return {};
}

}  // namespace mlxf::hub
