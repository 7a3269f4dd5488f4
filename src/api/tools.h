// Tools: what a request says of the functions that its answer may call.
//
// Pure translation; any thread. Whether a model's form of calls can be held to what is asked is known once the model is
// there.
#pragma once

#include <string>

#include "api/call.h"
#include "api/errors.h"
#include "api/fields.h"

namespace mlxf::api {

// Reads tools, tool_choice and what goes with them into `call` and, for the template, `render`.
void read_tools(Fields& fields, Protocol protocol, Call& call, text::RenderOptions& render);
// The same of OpenAI's responses, whose definitions are flat. A namespace's tools are functions of the namespace's name
// and their own, a custom tool is a function of one text; Call::origins has what they were. Tools of other kinds, which
// run on servers elsewhere, are left out with a warning.
void read_response_tools(Fields& fields, Call& call, text::RenderOptions& render);

// The name by which a model knows a tool of a namespace.
[[nodiscard]] std::string name_in_space(const std::string& space, const std::string& name);
// What a model gave a custom tool: the text among the arguments that it wrote.
[[nodiscard]] std::string custom_input(const std::string& arguments);

// Puts the members of the tools' definitions into the order in which the request's `body` has them: parsed requests
// are sorted, but models were taught on definitions as people write them.
void keep_tool_order(const std::string& body, Protocol protocol, Call& call);

}  // namespace mlxf::api
