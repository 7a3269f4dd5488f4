// Names of models and of the files in their repositories, as users type them and as servers and folders hold them.
//
// A name is [SOURCE:][ORG/]NAME[:VARIANT][@REVISION]. SOURCE says in which cache to look ("mlx-flash", "hf",
// "lmstudio", "ollama"); VARIANT is a quantisation of a GGUF repository or an Ollama tag. No name that passes can lead
// out of a folder that it is joined to. Pure functions; any thread.
#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace mlxf::hub {

struct ModelName {
  std::string source;    // Empty: any cache.
  std::string name;      // "org/name" or "name"; "hf.co/org/name" of Ollama.
  std::string variant;   // Empty: not said.
  std::string revision;  // Empty: not said.
};

// kInvalidArgument says what is wrong with it.
[[nodiscard]] Result<ModelName> parse_model_name(std::string_view text);

// What is wrong with one part of a name (ORG, NAME, a tag, a revision); null if nothing is: letters, digits and "._-",
// not beginning with a dot or a dash, without "..", at most 96 bytes.
[[nodiscard]] const char* name_part_fault(std::string_view part);

// What is wrong with the path of a file that a server lists; null if nothing is. It must stay inside the folder that
// it is joined to: no empty, "." or ".." part, no backslash or control character, no leading slash.
[[nodiscard]] const char* file_path_fault(std::string_view path);

// "Q4_K_M" of "model-Q4_K_M-00001-of-00002.gguf", "UD-Q4_K_XL", "BF16"; in capitals. Empty if the name tells none.
[[nodiscard]] std::string quantisation_of(std::string_view file_name);

// ASCII letters alone are folded.
[[nodiscard]] bool same_ignoring_case(std::string_view a, std::string_view b);

}  // namespace mlxf::hub
