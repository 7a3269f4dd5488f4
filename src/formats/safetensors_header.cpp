#include "formats/safetensors_header.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <utility>

#include "base/checked.h"
#include "formats/name_text.h"

namespace mlxf::formats {
namespace {

constexpr uint64_t kLengthBytes = 8;

constexpr std::array<std::pair<std::string_view, DType>, 15> kTypes = {{
    {"F64", DType::kF64},
    {"F32", DType::kF32},
    {"F16", DType::kF16},
    {"BF16", DType::kBF16},
    {"F8_E4M3", DType::kF8E4M3},
    {"F8_E5M2", DType::kF8E5M2},
    {"I64", DType::kI64},
    {"U64", DType::kU64},
    {"I32", DType::kI32},
    {"U32", DType::kU32},
    {"I16", DType::kI16},
    {"U16", DType::kU16},
    {"I8", DType::kI8},
    {"U8", DType::kU8},
    {"BOOL", DType::kBool},
}};

struct Span {
  uint64_t begin = 0;
  uint64_t end = 0;
};

// One pass over the header's text. `position_` is an offset in the text; messages add the 8 length bytes.
class HeaderScanner {
 public:
  HeaderScanner(const std::string& name, std::string_view text, uint64_t data_bytes)
      : name_(name), text_(text), data_bytes_(data_bytes) {}

  Result<std::vector<TensorEntry>> scan() {
    if (text_[0] != '{')
      return refuse("header", 0,
                    "starts with " + quoted_name(text_.substr(0, 1)) +
                        "; the format demands '{', and blanks before it are refused as well");
    if (const auto bad = find_invalid_utf8(text_)) return refuse("header", *bad, "is not valid UTF-8");
    position_ = 1;
    bool has_metadata = false;
    for (bool first = true; !accept_end('}'); first = false) {
      RETURN_IF_ERROR(expect_separator(first));
      const uint64_t start = position_;
      ASSIGN_OR_RETURN(std::string key, scan_string("tensor name"));
      RETURN_IF_ERROR(expect(':', "after a name"));
      if (key == "__metadata__") {
        if (std::exchange(has_metadata, true)) return refuse("__metadata__", start, "occurs twice");
        RETURN_IF_ERROR(scan_metadata());
        continue;
      }
      if (const char* fault = name_fault(key, kSafetensorsNameBytesMax))
        return refuse("tensor name " + quoted_name(key), start, fault);
      if (tensors_.size() == kSafetensorsTensorsMax)
        return refuse("tensor " + quoted_name(key), start,
                      "there are more than " + std::to_string(kSafetensorsTensorsMax) + " tensors");
      TensorEntry tensor;
      tensor.name = std::move(key);
      RETURN_IF_ERROR(scan_tensor(tensor, start));
      tensors_.push_back(std::move(tensor));
      starts_.push_back(start);
    }
    skip_blanks();
    if (position_ != text_.size()) return refuse("header", position_, "text follows the closing '}'");
    RETURN_IF_ERROR(check_names());
    RETURN_IF_ERROR(check_layout());
    return std::move(tensors_);
  }

 private:
  [[nodiscard]] tl::unexpected<Error> refuse(const std::string& field, uint64_t position,
                                             const std::string& why,
                                             ErrorCode code = ErrorCode::kCorrupt) const {
    return fail(code,
                name_ + ": " + field + " at byte " + std::to_string(kLengthBytes + position) + ": " + why);
  }

  [[nodiscard]] char peek() const { return position_ < text_.size() ? text_[position_] : '\0'; }

  void skip_blanks() {
    while (position_ < text_.size() && std::strchr(" \t\r\n", text_[position_]) != nullptr &&
           text_[position_] != '\0')
      ++position_;
  }

  Status expect(char wanted, const std::string& where) {
    skip_blanks();
    if (peek() != wanted) {
      const std::string found =
          position_ < text_.size() ? quoted_name(text_.substr(position_, 1)) : "the header's end";
      return refuse("header", position_,
                    "expected '" + std::string(1, wanted) + "' " + where + ", found " + found);
    }
    ++position_;
    return {};
  }

  // True, and past it, when the object or array closes here. Otherwise expect_separator() and a member
  // follow, so a comma before the close is refused for want of a member.
  bool accept_end(char close) {
    skip_blanks();
    if (peek() != close) return false;
    ++position_;
    return true;
  }

  Status expect_separator(bool first) {
    if (!first) RETURN_IF_ERROR(expect(',', "between members"));
    skip_blanks();
    return {};
  }

  Result<std::string> scan_string(const char* field) {
    const uint64_t start = position_;
    RETURN_IF_ERROR(expect('"', std::string("before a ") + field));
    std::string text;
    while (true) {
      const size_t stop = find_special();
      text.append(text_.substr(position_, stop - position_));
      position_ = stop;
      if (position_ >= text_.size()) return refuse(field, start, "its closing '\"' is missing");
      const char c = text_[position_++];
      if (c == '"') return text;
      if (c != '\\') return refuse(field, position_ - 1, "holds a raw control character");
      RETURN_IF_ERROR(scan_escape(field, text));
    }
  }

  // The position of the next quote, backslash or control character.
  [[nodiscard]] size_t find_special() const {
    size_t i = position_;
    while (i < text_.size() && text_[i] != '"' && text_[i] != '\\' && static_cast<uint8_t>(text_[i]) >= 0x20)
      ++i;
    return i;
  }

  Status scan_escape(const char* field, std::string& text) {
    constexpr std::string_view kLetters = "\"\\/bfnrt";
    constexpr std::string_view kMeanings = "\"\\/\b\f\n\r\t";
    const uint64_t start = position_ - 1;
    const char c = peek();
    ++position_;
    if (const size_t i = kLetters.find(c); c != '\0' && i != std::string_view::npos) {
      text += kMeanings[i];
      return {};
    }
    if (c != 'u') return refuse(field, start, "holds an escape that JSON does not know");
    auto code = scan_hex4();
    if (code && *code >= 0xd800 && *code <= 0xdbff) {
      const bool pair = text_.substr(position_, 2) == "\\u";
      position_ += 2;
      const auto low = pair ? scan_hex4() : std::nullopt;
      code = low && *low >= 0xdc00 && *low <= 0xdfff
                 ? std::optional(0x10000 + ((*code - 0xd800) << 10) + (*low - 0xdc00))
                 : std::nullopt;
    } else if (code && *code >= 0xdc00 && *code <= 0xdfff) {
      code = std::nullopt;
    }
    if (!code) return refuse(field, start, "holds a \\u escape that is not a character");
    append_utf8(*code, text);
    return {};
  }

  std::optional<uint32_t> scan_hex4() {
    uint32_t value = 0;
    for (int i = 0; i < 4; ++i, ++position_) {
      const char c = peek();
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (digit < 0) return std::nullopt;
      value = value * 16 + static_cast<uint32_t>(digit);
    }
    return value;
  }

  static void append_utf8(uint32_t code, std::string& text) {
    const auto put = [&](uint32_t byte) { text += static_cast<char>(byte); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xc0 | code >> 6);
      put(0x80 | (code & 0x3f));
    } else if (code < 0x10000) {
      put(0xe0 | code >> 12);
      put(0x80 | (code >> 6 & 0x3f));
      put(0x80 | (code & 0x3f));
    } else {
      put(0xf0 | code >> 18);
      put(0x80 | (code >> 12 & 0x3f));
      put(0x80 | (code >> 6 & 0x3f));
      put(0x80 | (code & 0x3f));
    }
  }

  Status scan_metadata() {
    constexpr std::string_view kNull = "null";  // What MLX writes for a file without metadata.
    skip_blanks();
    if (text_.substr(position_, kNull.size()) == kNull) {
      position_ += kNull.size();
      return {};
    }
    RETURN_IF_ERROR(expect('{', "of __metadata__"));
    for (bool first = true; !accept_end('}'); first = false) {
      RETURN_IF_ERROR(expect_separator(first));
      if (auto key = scan_string("__metadata__ key"); !key)
        return tl::unexpected<Error>(std::move(key).error());
      RETURN_IF_ERROR(expect(':', "after a __metadata__ key"));
      skip_blanks();
      if (peek() != '"') return refuse("__metadata__ value", position_, "is not a string");
      if (auto value = scan_string("__metadata__ value"); !value)
        return tl::unexpected<Error>(std::move(value).error());
    }
    return {};
  }

  Status scan_tensor(TensorEntry& tensor, uint64_t start) {
    const auto field = [&] { return "tensor " + quoted_name(tensor.name); };
    RETURN_IF_ERROR(expect('{', "of a tensor"));
    bool has_dtype = false;
    bool has_shape = false;
    bool has_offsets = false;
    Span span;
    for (bool first = true; !accept_end('}'); first = false) {
      RETURN_IF_ERROR(expect_separator(first));
      const uint64_t member = position_;
      ASSIGN_OR_RETURN(const std::string key, scan_string("tensor member"));
      RETURN_IF_ERROR(expect(':', "after a member's name"));
      bool* seen = key == "dtype" ? &has_dtype : key == "shape" ? &has_shape : &has_offsets;
      if (seen == &has_offsets && key != "data_offsets")
        return refuse(field(), member, "has an unknown member " + quoted_name(key), ErrorCode::kUnsupported);
      if (std::exchange(*seen, true)) return refuse(field(), member, "has " + quoted_name(key) + " twice");
      auto status = seen == &has_dtype   ? scan_dtype(tensor)
                    : seen == &has_shape ? scan_shape(tensor)
                                         : scan_offsets(span);
      if (!status) return tl::unexpected<Error>(std::move(status).error().within(field()));
    }
    const char* missing = !has_dtype     ? "dtype"
                          : !has_shape   ? "shape"
                          : !has_offsets ? "data_offsets"
                                         : nullptr;
    if (missing != nullptr) return refuse(field(), start, std::string("has no ") + missing);
    return check_size(tensor, span, start);
  }

  Status check_size(TensorEntry& tensor, const Span& span, uint64_t start) const {
    const auto field = [&] { return "tensor " + quoted_name(tensor.name); };
    if (span.begin > span.end)
      return refuse(
          field(), start,
          "data_offsets [" + std::to_string(span.begin) + ", " + std::to_string(span.end) + "] are reversed");
    if (span.end > data_bytes_)
      return refuse(field(), start,
                    "data_offsets end at " + std::to_string(span.end) + ", but the file holds " +
                        std::to_string(data_bytes_) + " bytes of data; the download may be incomplete");
    uint64_t elements = 1;
    for (const uint64_t extent : tensor.shape) {
      const auto product = checked_mul(elements, extent);
      if (!product) return refuse(field(), start, "the number of elements overflows 64 bits");
      elements = *product;
    }
    const auto bytes = row_bytes(tensor.dtype, elements);
    if (!bytes) return refuse(field(), start, "its size in bytes overflows 64 bits");
    if (*bytes != span.end - span.begin)
      return refuse(field(), start,
                    "dtype and shape need " + std::to_string(*bytes) + " bytes, data_offsets span " +
                        std::to_string(span.end - span.begin));
    tensor.offset = span.begin;  // Relative until check_layout().
    tensor.bytes = *bytes;
    return {};
  }

  Status scan_dtype(TensorEntry& tensor) {
    skip_blanks();
    const uint64_t start = position_;
    ASSIGN_OR_RETURN(const std::string text, scan_string("dtype"));
    const auto dtype = dtype_of_safetensors(text);
    if (!dtype)
      return refuse("dtype", start, "type " + quoted_name(text) + " is not supported",
                    ErrorCode::kUnsupported);
    tensor.dtype = *dtype;
    return {};
  }

  Status scan_shape(TensorEntry& tensor) {
    RETURN_IF_ERROR(expect('[', "of a shape"));
    for (bool first = true; !accept_end(']'); first = false) {
      RETURN_IF_ERROR(expect_separator(first));
      if (tensor.shape.size() == kSafetensorsDimensionsMax)
        return refuse("shape", position_,
                      "has more than " + std::to_string(kSafetensorsDimensionsMax) + " dimensions");
      ASSIGN_OR_RETURN(const uint64_t extent, scan_integer("shape"));
      tensor.shape.push_back(extent);
    }
    return {};
  }

  Status scan_offsets(Span& span) {
    RETURN_IF_ERROR(expect('[', "of data_offsets"));
    skip_blanks();
    ASSIGN_OR_RETURN(span.begin, scan_integer("data_offsets"));
    RETURN_IF_ERROR(expect(',', "between data_offsets"));
    skip_blanks();
    ASSIGN_OR_RETURN(span.end, scan_integer("data_offsets"));
    return expect(']', "after two data_offsets");
  }

  Result<uint64_t> scan_integer(const char* field) {
    const uint64_t start = position_;
    uint64_t value = 0;
    while (peek() >= '0' && peek() <= '9') {
      const auto shifted = checked_mul(value, 10);
      const auto sum = shifted ? checked_add(*shifted, static_cast<uint64_t>(peek() - '0')) : std::nullopt;
      if (!sum) return refuse(field, start, "an integer does not fit in 64 bits");
      value = *sum;
      ++position_;
    }
    if (position_ == start) return refuse(field, start, "is not a non-negative integer");
    if (text_[start] == '0' && position_ - start > 1) return refuse(field, start, "an integer starts with 0");
    if (const char c = peek(); c == '.' || c == 'e' || c == 'E')
      return refuse(field, start, "is not an integer but a fraction or power");
    return value;
  }

  Status check_names() const {
    NameIndex index;
    const auto twice =
        index.build(tensors_.size(), [this](size_t i) { return std::string_view(tensors_[i].name); });
    if (!twice) return {};
    return refuse("tensor name " + quoted_name(tensors_[twice->second].name), starts_[twice->second],
                  "occurs twice; first at byte " + std::to_string(kLengthBytes + starts_[twice->first]));
  }

  // Turns relative offsets into absolute ones and proves that the tensors cover the data without holes or
  // overlaps.
  Status check_layout() {
    const auto before = [](const TensorEntry& a, const TensorEntry& b) {
      return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
    };
    if (!std::is_sorted(tensors_.begin(), tensors_.end(), before))
      std::stable_sort(tensors_.begin(), tensors_.end(), before);
    const uint64_t data_offset = text_.size();  // Beyond the length bytes, like every position here.
    uint64_t end = 0;
    const TensorEntry* previous = nullptr;
    for (TensorEntry& tensor : tensors_) {
      if (tensor.offset != end) {
        const std::string other =
            previous == nullptr ? "the start of the data" : "tensor " + quoted_name(previous->name);
        return refuse("tensor " + quoted_name(tensor.name), data_offset + tensor.offset,
                      tensor.offset < end ? "overlaps " + other
                                          : "a hole of " + std::to_string(tensor.offset - end) +
                                                " bytes lies between it and " + other);
      }
      end += tensor.bytes;
      previous = &tensor;
    }
    if (end != data_bytes_)
      return refuse("trailing bytes", data_offset + end,
                    std::to_string(data_bytes_ - end) + " bytes follow the last tensor");
    for (TensorEntry& tensor : tensors_) tensor.offset += kLengthBytes + data_offset;
    return {};
  }

  const std::string& name_;
  const std::string_view text_;
  const uint64_t data_bytes_;
  uint64_t position_ = 0;
  std::vector<TensorEntry> tensors_;
  std::vector<uint64_t> starts_;  // Where each name starts, parallel to tensors_ until they are sorted.
};

}  // namespace

std::optional<DType> dtype_of_safetensors(std::string_view name) {
  for (const auto& [text, dtype] : kTypes) {
    if (text == name) return dtype;
  }
  return std::nullopt;
}

std::optional<std::string_view> safetensors_name_of(DType dtype) {
  for (const auto& [text, type] : kTypes) {
    if (type == dtype) return text;
  }
  return std::nullopt;
}

Result<std::vector<TensorEntry>> parse_safetensors_header(const ByteSource& source) {
  const auto refuse = [&](const std::string& why) {
    return fail(ErrorCode::kCorrupt, source.name() + ": safetensors header length at byte 0: " + why);
  };
  if (source.size() < kLengthBytes)
    return refuse("needs 8 bytes, but the file holds " + std::to_string(source.size()));
  std::array<uint8_t, kLengthBytes> raw{};
  RETURN_IF_ERROR(source.read_exact(0, raw));
  uint64_t bytes = 0;
  std::memcpy(&bytes, raw.data(), sizeof bytes);
  if (bytes == 0) return refuse("is 0");
  if (bytes > kSafetensorsHeaderBytesMax)
    return refuse(std::to_string(bytes) + " is over the format's limit of " +
                  std::to_string(kSafetensorsHeaderBytesMax) + "; this is no safetensors file");
  if (bytes > source.size() - kLengthBytes)
    return refuse(std::to_string(bytes) + " is more than the file holds (" + std::to_string(source.size()) +
                  "); the download may be incomplete");
  std::string text(bytes, '\0');
  RETURN_IF_ERROR(source.read_exact(kLengthBytes, {reinterpret_cast<uint8_t*>(text.data()), text.size()}));
  return HeaderScanner(source.name(), text, source.size() - kLengthBytes - bytes).scan();
}

}  // namespace mlxf::formats
