// pull: gets a model from a Hugging Face-compatible server into this program's own cache.
//
//   MODELS/ORG/NAME/REVISION[~QUANT]/   the model; appears by one rename, once every file's checksum was right
//   MODELS/.partial/…/                  what has arrived of one that is not complete; the next pull goes on there
//
// One process at a time pulls a model (a lock on a file in the partial folder). One thread. Sizes are bytes.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "hub/model_name.h"

namespace mlxf::hub {

struct PullOptions {
  std::string endpoint;  // endpoint_from_environment()
  std::string token;     // token_from_environment()
  std::string models;    // own_models_folder()
  std::function<bool()> cancelled;
  std::function<void(uint64_t done, uint64_t total)> progress;
  std::function<void(const std::string& line)> note;  // What was decided.
};

struct PullReport {
  std::string title;  // As -m takes it.
  std::string folder;
  uint64_t bytes = 0;
  bool was_there = false;
};

[[nodiscard]] std::string endpoint_from_environment();  // HF_ENDPOINT, else https://huggingface.co.
// HF_TOKEN, else the file that Hugging Face's own program keeps it in; empty: none.
[[nodiscard]] Result<std::string> token_from_environment();

[[nodiscard]] Result<PullReport> pull(const ModelName& name, const PullOptions& options);

}  // namespace mlxf::hub
