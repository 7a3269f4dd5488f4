#include "formats/file_kind.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <string_view>

#include "formats/safetensors_header.h"

namespace mlxf::formats {
namespace {

using std::operator""sv;

constexpr size_t kProbeBytes = 512;
constexpr size_t kTarMarkOffset = 257;

struct KnownKind {
  std::string_view start;
  const char* verdict;
};

constexpr const char* kPickle =
    "is a PyTorch pickle, which can run code when it is opened and is never read; take the model's "
    "safetensors "
    "files, or convert it with its own tools";

constexpr std::array<KnownKind, 13> kKnownKinds = {{
    {"PK\x03\x04"sv,
     "is a zip archive, as PyTorch's .bin and .pt files are, and is never unpickled; take the model's "
     "safetensors "
     "files, or convert it with its own tools"},
    {"\x80\x02"sv, kPickle},
    {"\x80\x03"sv, kPickle},
    {"\x80\x04"sv, kPickle},
    {"\x80\x05"sv, kPickle},
    {"version https://git-lfs"sv,
     "is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder"},
    {"<!DOCTYPE"sv, "is an HTML page, so the download failed; download it again"},
    {"<html"sv, "is an HTML page, so the download failed; download it again"},
    {"tjgg"sv, "is a GGML file older than GGUF; take a GGUF file of the model"},
    {"lmgg"sv, "is a GGML file older than GGUF; take a GGUF file of the model"},
    {"fmgg"sv, "is a GGML file older than GGUF; take a GGUF file of the model"},
    {"\x89HDF"sv, "is an HDF5 file; take the model's safetensors files"},
    {"\x93NUMPY"sv, "is a NumPy file; take the model's safetensors files"},
}};

bool ends_with_name(const ByteSource& source, std::string_view suffix) {
  return std::string_view(source.name()).ends_with(suffix);
}

}  // namespace

Result<Container> detect_container(const ByteSource& source) {
  std::array<char, kProbeBytes> probe{};
  const size_t bytes = std::min<uint64_t>(kProbeBytes, source.size());
  RETURN_IF_ERROR(source.read_exact(0, {reinterpret_cast<uint8_t*>(probe.data()), bytes}));
  const std::string_view start(probe.data(), bytes);
  if (start.starts_with("GGUF")) return Container::kGguf;
  // Before the known kinds: a header of 640 bytes starts with the bytes of a pickle.
  uint64_t header_bytes = 0;
  if (bytes > sizeof header_bytes) {
    std::memcpy(&header_bytes, start.data(), sizeof header_bytes);
    if (start[sizeof header_bytes] == '{' && header_bytes <= kSafetensorsHeaderBytesMax)
      return Container::kSafetensors;
  }
  const auto refuse = [&](const std::string& verdict) {
    return fail(ErrorCode::kUnsupported, source.name() + ": " + verdict);
  };
  for (const KnownKind& kind : kKnownKinds) {
    if (start.starts_with(kind.start)) return refuse(kind.verdict);
  }
  if (bytes > kTarMarkOffset && start.substr(kTarMarkOffset).starts_with("ustar"))
    return refuse("is a tar archive; unpack it first");
  // Not recognised: the parser that the name asks for says best what is wrong.
  if (ends_with_name(source, ".gguf")) return Container::kGguf;
  if (ends_with_name(source, ".safetensors")) return Container::kSafetensors;
  if (bytes == 0) return refuse("is empty");
  return refuse("is neither GGUF nor safetensors");
}

}  // namespace mlxf::formats
