#include "formats/tensor_stream.h"

#include <array>
#include <utility>

#include "base/check.h"
#include "base/checked.h"
#include "formats/name_text.h"

namespace mlxf::formats {
namespace {

constexpr uint64_t kAlignmentMax = 64;

}  // namespace

Result<uint64_t> tensor_bytes(const TensorSpec& spec) {
  const auto refuse = [&](const char* why) {
    return fail(ErrorCode::kInvalidArgument, "tensor " + quoted_name(spec.name) + ": " + why);
  };
  uint64_t rows = 1;
  for (size_t i = 0; i + 1 < spec.shape.size(); ++i) {
    const auto product = checked_mul(rows, spec.shape[i]);
    if (!product) return refuse("the number of elements overflows 64 bits");
    rows = *product;
  }
  const uint64_t columns = spec.shape.empty() ? 1 : spec.shape.back();
  if (columns % traits(spec.dtype).block_elements != 0)
    return refuse("its rows are not whole blocks of its type");
  const auto row = row_bytes(spec.dtype, columns);
  const auto bytes = row ? checked_mul(*row, rows) : std::nullopt;
  if (!bytes || *bytes > static_cast<uint64_t>(INT64_MAX)) return refuse("its size overflows 63 bits");
  return *bytes;
}

TensorStream::TensorStream(platform::NewFile file, std::vector<DeclaredTensor> tensors, uint64_t alignment)
    : file_(std::move(file)), tensors_(std::move(tensors)), alignment_(alignment) {}

Result<TensorStream> TensorStream::create(const std::string& path, Overwrite overwrite,
                                          std::span<const uint8_t> header,
                                          std::vector<DeclaredTensor> tensors, uint64_t alignment) {
  CHECK(alignment > 0 && alignment <= kAlignmentMax && header.size() % alignment == 0);
  ASSIGN_OR_RETURN(platform::NewFile file, platform::NewFile::create(path, overwrite));
  RETURN_IF_ERROR(file.append(header));
  TensorStream stream(std::move(file), std::move(tensors), alignment);
  RETURN_IF_ERROR(stream.close_complete());
  return stream;
}

Status TensorStream::close_complete() {
  constexpr std::array<uint8_t, kAlignmentMax> kZeros{};
  while (next_ < tensors_.size() && written_ == tensors_[next_].bytes) {
    const uint64_t padding = (alignment_ - written_ % alignment_) % alignment_;
    RETURN_IF_ERROR(file_.append({kZeros.data(), padding}));
    ++next_;
    written_ = 0;
  }
  return {};
}

Status TensorStream::append(std::string_view tensor, std::span<const uint8_t> bytes) {
  const auto refuse = [&](const std::string& why) {
    return fail(ErrorCode::kInternal, file_.path() + ": tensor " + quoted_name(tensor) + ": " + why);
  };
  if (bytes.empty()) return {};  // Tensors without elements are complete before they are due.
  if (next_ == tensors_.size()) return refuse("came after all declared tensors");
  if (tensors_[next_].name != tensor)
    return refuse("came when " + quoted_name(tensors_[next_].name) + " was due");
  if (bytes.size() > tensors_[next_].bytes - written_)
    return refuse("got more than its " + std::to_string(tensors_[next_].bytes) + " bytes");
  RETURN_IF_ERROR(file_.append(bytes));
  written_ += bytes.size();
  return close_complete();
}

Status TensorStream::append_hole(std::string_view tensor) {
  if (next_ == tensors_.size() || tensors_[next_].name != tensor || written_ != 0)
    return fail(ErrorCode::kInternal,
                file_.path() + ": tensor " + quoted_name(tensor) + ": came when it was not due");
  written_ = tensors_[next_].bytes;
  RETURN_IF_ERROR(file_.append_hole(written_));
  return close_complete();
}

Status TensorStream::finish() {
  if (next_ != tensors_.size())
    return fail(ErrorCode::kInternal, file_.path() + ": tensor " + quoted_name(tensors_[next_].name) +
                                          ": has " + std::to_string(written_) + " of its " +
                                          std::to_string(tensors_[next_].bytes) + " bytes");
  return file_.commit();
}

}  // namespace mlxf::formats
