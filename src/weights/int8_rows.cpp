#include "weights/int8_rows.h"

#include <cstring>
#include <vector>

#include "kernels/kernel_table.h"

namespace mlxf::weights {
namespace {

constexpr uint32_t kGroup = 32;

// Converts rows one after the other through its own memory, so that source and target may overlap.
class Converter {
 public:
  explicit Converter(const MatrixView& stored)
      : stored_(stored),
        values_(stored.cols),
        codes_(stored.cols),
        scales_(stored.cols / kGroup),
        sums_(stored.cols / 16 + stored.cols / 32) {}

  void row(uint32_t row, uint8_t* codes, uint8_t* scales) {
    kernels_.decode[static_cast<uint32_t>(stored_.format)](stored_, row, 0, stored_.cols, values_.data());
    kernels_.quantize(values_.data(), stored_.cols, kGroup, codes_.data(), scales_.data(), sums_.data(),
                      sums_.data() + stored_.cols / 16);
    std::memcpy(codes, codes_.data(), codes_.size());
    std::memcpy(scales, scales_.data(), scales_.size() * sizeof(float));
  }

 private:
  const kernels::KernelTable& kernels_ = kernels::select_kernels();
  const MatrixView& stored_;
  std::vector<float> values_;
  std::vector<int8_t> codes_;
  std::vector<float> scales_;
  std::vector<int16_t> sums_;
};

}  // namespace

bool can_be_int8(const MatrixView& stored) {
  const bool floats = stored.format == WeightFormat::kF32 || stored.format == WeightFormat::kF16 ||
                      stored.format == WeightFormat::kBF16;
  return floats && stored.cols % kGroup == 0;
}

MatrixView int8_layout(const MatrixView& stored) {
  MatrixView view = stored;
  view.data = view.scales = view.biases = nullptr;
  view.format = WeightFormat::kI8Row;
  view.group = kGroup;
  view.row_bytes = view.cols;
  view.scale_row_bytes = view.cols / kGroup * sizeof(float);
  return view;
}

uint64_t int8_bytes(const MatrixView& stored) {
  const MatrixView view = int8_layout(stored);
  return view.rows * (view.row_bytes + view.scale_row_bytes);
}

void convert_rows(const MatrixView& stored, const MatrixView& target, uint32_t target_row) {
  Converter converter(stored);
  for (uint32_t row = 0; row < stored.rows; ++row) {
    const uint64_t to = target_row + row;
    converter.row(row, const_cast<uint8_t*>(target.data) + to * target.row_bytes,
                  const_cast<uint8_t*>(target.scales) + to * target.scale_row_bytes);
  }
}

// A converted row is shorter than a stored one, so no row is written before it was read.
MatrixView convert_in_place(const MatrixView& stored) {
  MatrixView view = int8_layout(stored);
  view.row_bytes = view.scale_row_bytes = stored.cols + stored.cols / kGroup * sizeof(float);
  view.data = stored.data;
  view.scales = stored.data + stored.cols;
  convert_rows(stored, view, 0);
  return view;
}

}  // namespace mlxf::weights
