// The GGUF half of quantize(): one file in llama.cpp's mix of types, with the tokenizer inside.
//
// Called by quantize() alone, with options that it has checked; see convert/quantize.h for what is promised and
// gguf_plan.h for what is written.
#pragma once

#include "base/result.h"
#include "convert/quantize.h"
#include "convert/source_model.h"

namespace mlxf::convert {

[[nodiscard]] Result<QuantizeReport> quantize_to_gguf(const QuantizeOptions& options,
                                                      const SourceModel& model, compute::ThreadPool& pool,
                                                      const ProgressFn& progress);

}  // namespace mlxf::convert
