#include "model/families/families.h"

namespace mlxf::model {

// llama with a sliding window in every layer, when the configuration gives one.
Result<ModelSpec> mistral(const Source& source) {
  ASSIGN_OR_RETURN(ModelSpec spec, llama(source));
  RETURN_IF_ERROR(set_windows(source, spec, [](uint32_t) { return true; }));
  return spec;
}

}  // namespace mlxf::model
