// The MLX half of quantize(): what becomes of each tensor, the folder and its config.json.
//
// Called by quantize() alone, with options that it has checked; see convert/quantize.h for what is promised.
#pragma once

#include "base/result.h"
#include "convert/quantize.h"
#include "convert/source_model.h"

namespace mlxf::convert {

[[nodiscard]] Result<QuantizeReport> quantize_to_mlx(const QuantizeOptions& options, const SourceModel& model,
                                                     compute::ThreadPool& pool, const ProgressFn& progress);

}  // namespace mlxf::convert
