// What a request asks of its answer's form, as a constraint for the engine: a schema or grammar, or calls of its tools.
//
// Pure functions of the call and the model; any thread.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "api/call.h"
#include "api/errors.h"
#include "engine/constraint.h"
#include "server/answer.h"
#include "server/model_host.h"

namespace mlxf::server {

// Null where nothing is asked. Calls that are forced come before a schema, which is of texts. What has no effect is
// added to `warnings`.
[[nodiscard]] tl::expected<std::shared_ptr<const engine::Constraint>, api::ApiError> make_constraint(
    const api::Call& call, const ServedModel& model, const Prompt& prompt,
    std::vector<std::string>& warnings);

}  // namespace mlxf::server
