#include "convert/quantize_gguf.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <utility>

#include "convert/gguf_blocks.h"
#include "convert/gguf_plan.h"
#include "convert/row_slices.h"
#include "convert/vocabulary_pairs.h"
#include "formats/gguf_writer.h"
#include "formats/tensor_stream.h"
#include "platform/file.h"

namespace mlxf::convert {
namespace {

class GgufQuantizer {
 public:
  GgufQuantizer(const QuantizeOptions& options, const SourceModel& model, compute::ThreadPool& pool,
                const ProgressFn& progress)
      : options_(options), model_(model), pool_(pool), progress_(progress) {}

  [[nodiscard]] Result<QuantizeReport> run();

 private:
  [[nodiscard]] Status override_types();
  [[nodiscard]] Status write_file(const formats::GgufPairs& metadata);
  [[nodiscard]] Status write_tensor(const GgufTensor& tensor, formats::GgufWriter& writer);
  [[nodiscard]] Status verify() const;
  [[nodiscard]] Status verify_row(const formats::ModelManifest& written, const GgufTensor& tensor,
                                  uint64_t row) const;
  [[nodiscard]] static uint64_t target_row(const GgufTensor& tensor, uint64_t row) {
    return tensor.interleaved_heads == 0
               ? row
               : interleaved_row(row, tensor.source->rows(), tensor.interleaved_heads);
  }

  const QuantizeOptions& options_;
  const SourceModel& model_;
  compute::ThreadPool& pool_;
  const ProgressFn& progress_;
  GgufPlan plan_;
  QuantizeReport report_;
  EncodeSums sums_;
  uint64_t done_bytes_ = 0;
};

// One row as the file holds it; returns its squared error.
double encode_row(const GgufTensor& tensor, std::span<const float> weights, std::span<uint8_t> out) {
  if (!tensor.add_one) return encode_gguf_row(tensor.dtype, weights, out);
  std::vector<float> raised(weights.begin(), weights.end());
  for (float& weight : raised) weight += 1.0f;
  return encode_gguf_row(tensor.dtype, raised, out);
}

std::span<const uint8_t> bytes_of(const std::vector<float>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size() * sizeof(float)};
}

Status GgufQuantizer::write_tensor(const GgufTensor& tensor, formats::GgufWriter& writer) {
  if (tensor.source == nullptr) return writer.append(tensor.name, bytes_of(tensor.values));
  const SourceTensor& source = *tensor.source;
  const uint64_t row_size = *row_bytes(tensor.dtype, source.cols());
  // Rows that change places wait for the last one; they are a layer's queries or keys at most.
  const uint64_t at_once =
      tensor.interleaved_heads != 0 ? source.rows() : std::min(slice_rows(source), source.rows());
  std::vector<uint8_t> encoded(at_once * row_size);
  const auto encode = [&](uint64_t row, std::span<const float> weights) {
    return encode_row(tensor, weights,
                      std::span(encoded).subspan(target_row(tensor, row) % at_once * row_size, row_size));
  };
  const auto done = [&](uint64_t, uint64_t count) -> Status {
    done_bytes_ += count * source.cols() * traits(source.dtype).block_bytes;
    if (progress_) progress_(done_bytes_, report_.source_bytes);
    if (tensor.interleaved_heads != 0) return {};
    return writer.append(tensor.name, std::span(encoded).first(count * row_size));
  };
  ASSIGN_OR_RETURN(const EncodeSums sums, encode_rows(model_, source, pool_, encode, done));
  if (tensor.interleaved_heads != 0) RETURN_IF_ERROR(writer.append(tensor.name, encoded));
  if (is_block_quantised(tensor.dtype)) {
    sums_.error += sums.error;
    sums_.squares += sums.squares;
    report_.quantized_weights += source.elements();
  }
  return {};
}

Status GgufQuantizer::override_types() {
  for (GgufTensor& tensor : plan_.tensors) {
    if (tensor.source == nullptr || tensor.source->rows() == 1) continue;
    for (const Override& rule : options_.overrides) {
      if (tensor.source->name.find(rule.pattern) == std::string::npos) continue;
      if (rule.format)
        return fail(ErrorCode::kInvalidArgument,
                    "override '" + rule.pattern + "' names an MLX type; for GGUF only PATTERN=none is known");
      tensor.dtype = DType::kF16;
      break;
    }
  }
  return {};
}

Status GgufQuantizer::write_file(const formats::GgufPairs& metadata) {
  std::vector<formats::TensorSpec> specs;
  for (const GgufTensor& tensor : plan_.tensors) {
    specs.push_back({tensor.name, tensor.dtype, tensor.shape});
    ASSIGN_OR_RETURN(const uint64_t bytes, formats::tensor_bytes(specs.back()));
    report_.written_bytes += bytes;
    if (tensor.source == nullptr) continue;
    for (const formats::TensorEntry* part : tensor.source->parts) report_.source_bytes += part->bytes;
  }
  ASSIGN_OR_RETURN(formats::GgufWriter writer,
                   formats::GgufWriter::create(options_.out, metadata, std::move(specs)));
  for (const GgufTensor& tensor : plan_.tensors) RETURN_IF_ERROR(write_tensor(tensor, writer));
  return writer.finish();
}

Status GgufQuantizer::verify_row(const formats::ModelManifest& written, const GgufTensor& tensor,
                                 uint64_t row) const {
  const formats::TensorEntry* entry = written.find(tensor.name);
  if (entry == nullptr) return fail(ErrorCode::kInternal, tensor.name + ": was not written");
  std::vector<float> weights(tensor.source->cols());
  RETURN_IF_ERROR(model_.read_rows(*tensor.source, row, weights));
  std::vector<uint8_t> expected(*row_bytes(tensor.dtype, weights.size()));
  encode_row(tensor, weights, expected);
  std::vector<uint8_t> found(expected.size());
  ASSIGN_OR_RETURN(const platform::File file, platform::File::open(written.files[entry->file]));
  RETURN_IF_ERROR(file.read_exact(entry->offset + target_row(tensor, row) * found.size(), found));
  if (found != expected)
    return fail(ErrorCode::kIo, tensor.name + ": row " + std::to_string(row) +
                                    " reads back differently from what was written");
  return {};
}

Status GgufQuantizer::verify() const {
  ASSIGN_OR_RETURN(const formats::ModelManifest written, formats::open_model(options_.out));
  for (const GgufTensor& tensor : plan_.tensors) {
    if (tensor.source == nullptr) continue;
    RETURN_IF_ERROR(verify_row(written, tensor, 0));
    RETURN_IF_ERROR(verify_row(written, tensor, tensor.source->rows() - 1));
  }
  return check_vocabulary(model_.manifest(), written);
}

Result<QuantizeReport> GgufQuantizer::run() {
  ASSIGN_OR_RETURN(plan_, plan_gguf(model_, *options_.type.gguf));
  RETURN_IF_ERROR(override_types());
  formats::GgufPairs metadata = plan_.metadata;
  ASSIGN_OR_RETURN(formats::GgufPairs vocabulary,
                   vocabulary_pairs(model_.manifest(), model_.folder(), plan_.vocab));
  std::move(vocabulary.begin(), vocabulary.end(), std::back_inserter(metadata));
  RETURN_IF_ERROR(write_file(metadata));
  if (Status good = verify(); !good) {
    std::remove(options_.out.c_str());
    return tl::unexpected<Error>(good.error());
  }
  if (sums_.squares > 0.0) report_.relative_error = std::sqrt(sums_.error / sums_.squares);
  return report_;
}

}  // namespace

Result<QuantizeReport> quantize_to_gguf(const QuantizeOptions& options, const SourceModel& model,
                                        compute::ThreadPool& pool, const ProgressFn& progress) {
  return GgufQuantizer(options, model, pool, progress).run();
}

}  // namespace mlxf::convert
