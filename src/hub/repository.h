// A model's repository as a Hugging Face-compatible server describes it, and which of its files make a model.
//
// Format: GET /api/models/ORG/NAME/revision/REVISION?blobs=true (https://huggingface.co/docs/hub/api). All of it is
// hostile: a file name that leads out of its folder refuses the whole answer. Pure; any thread. Sizes are bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mlxf::hub {

struct RemoteFile {
  std::string path;  // In the repository; passes file_path_fault().
  uint64_t bytes = 0;
  std::string sha256;    // Of large files, in hexadecimal; else empty, and
  std::string git_sha1;  // the name of the git blob.
  // Its name in the model's folder, which has no folders of its own.
  [[nodiscard]] std::string local_name() const { return path.substr(path.rfind('/') + 1); }
};

struct Repository {
  std::string commit;  // 40 hexadecimal digits.
  std::vector<RemoteFile> files;
};

[[nodiscard]] Result<Repository> parse_repository(std::string_view json);

struct Selection {
  std::vector<RemoteFile> files;
  std::string variant;               // The quantisation, where the model is in GGUF.
  std::vector<std::string> choices;  // The other ones, where nobody asked for one.
  [[nodiscard]] uint64_t bytes() const;
};

// Safetensors with their configuration and tokenizer; or one GGUF model: the one asked for by its quantisation, else
// the usual one. Never pickles or programs. Errors say what there is.
[[nodiscard]] Result<Selection> select_files(const Repository& repository, std::string_view quantisation);

}  // namespace mlxf::hub
