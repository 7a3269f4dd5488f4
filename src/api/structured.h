// Structured output: what an answer must be, as OpenAI's, Anthropic's and Ollama's clients and other servers' say it.
//
// The readers put it into `structure`, and what they cannot read into the fields' error. Whether a schema or grammar
// can be used is known once the model is there. One request, one thread.
#pragma once

#include <optional>
#include <string>

#include "api/errors.h"
#include "api/fields.h"
#include "base/json.h"
#include "text/grammar.h"

namespace mlxf::api {

struct Structure {
  text::GrammarText grammar;
  std::string param;    // The field that asked for it.
  std::string pointer;  // Where in the request's body the schema stands (RFC 6901); empty: nowhere.
};

// OpenAI's response_format; llama.cpp's json_schema, and grammar, in GBNF or Lark; vLLM's structured_outputs with json,
// regex, choice or grammar, likewise.
void read_openai_structure(Fields& fields, std::optional<Structure>& structure);
// A format: {"type": "json_schema", "schema"}. `param` names it: output_config.format.
void read_anthropic_format(Fields& fields, const Json& format, const std::string& param,
                           std::optional<Structure>& structure);
// OpenAI's text.format, of the responses: {"type": "text"}, "json_object", or "json_schema" with "schema".
void read_response_format(Fields& text, const Json& format, std::optional<Structure>& structure);
// "json" or a schema.
void read_ollama_format(Fields& fields, std::optional<Structure>& structure);

// Gives a schema the order of members that it has in `body`, in which a model is then asked for them: parsed requests
// sort them. REQUIRES: parse_body(body) succeeded, and `structure` was read from it.
void restore_schema_order(const std::string& body, Structure& structure);

}  // namespace mlxf::api
