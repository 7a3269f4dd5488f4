#include "formats/fingerprint.h"

#include <algorithm>
#include <cstdio>
#include <vector>

#include "platform/file.h"

namespace mlxf::formats {
namespace {

constexpr uint64_t kSamplesPerFile = 8;
constexpr uint64_t kSampleBytes = 4096;

// FNV-1a of 64 bits.
class Hash {
 public:
  void add(const void* data, size_t bytes) {
    const auto* p = static_cast<const uint8_t*>(data);
    for (size_t i = 0; i < bytes; ++i) value_ = (value_ ^ p[i]) * 0x100000001B3u;
  }
  void add(const std::string& text) {
    add(text.size());
    add(text.data(), text.size());
  }
  void add(uint64_t number) { add(&number, sizeof number); }
  [[nodiscard]] std::string text() const {
    char digits[17];
    std::snprintf(digits, sizeof digits, "%016llx", static_cast<unsigned long long>(value_));
    return digits;
  }

 private:
  uint64_t value_ = 0xCBF29CE484222325u;
};

}  // namespace

Result<std::string> fingerprint(const ModelManifest& manifest) {
  Hash hash;
  hash.add(dump_json(manifest.config));
  for (const TensorEntry& tensor : manifest.tensors) {
    hash.add(tensor.name);
    hash.add(static_cast<uint64_t>(tensor.dtype));
    for (const uint64_t dimension : tensor.shape) hash.add(dimension);
    hash.add(tensor.file);
    hash.add(tensor.offset);
  }
  std::vector<uint8_t> sample;
  for (const std::string& path : manifest.files) {
    ASSIGN_OR_RETURN(const platform::File file, platform::File::open(path));
    for (uint64_t i = 1; i <= kSamplesPerFile; ++i) {
      const uint64_t offset = file.size() / (kSamplesPerFile + 1) * i;
      sample.resize(std::min(kSampleBytes, file.size() - offset));
      RETURN_IF_ERROR(file.read_exact(offset, sample));
      hash.add(sample.data(), sample.size());
    }
  }
  return hash.text();
}

}  // namespace mlxf::formats
