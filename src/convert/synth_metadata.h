// The GGUF metadata of a synthetic model: what describes its architecture as llama.cpp's converter writes it, and its
// vocabulary.
//
// A pure function; any thread.
#pragma once

#include "convert/shapes.h"
#include "convert/tensor_role.h"
#include "formats/gguf_writer.h"

namespace mlxf::convert {

[[nodiscard]] formats::GgufPairs synth_metadata(const ModelShape& shape, GgufMix mix);

}  // namespace mlxf::convert
