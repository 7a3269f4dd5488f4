// The models that are on this machine: in this program's own cache and, in place, in those of other programs.
//
//   mlx-flash     ROOT/ORG/NAME/REVISION[~QUANT]/files; a folder that is there is whole (hub/pull.h makes them)
//   Hugging Face  ROOT/models--ORG--NAME/{refs/main,snapshots/COMMIT/…}: links to the same repository's blobs
//   LM Studio     ROOT/PUBLISHER/NAME/files
//   Ollama        ROOT/manifests/HOST/NAMESPACE/NAME/TAG (JSON), ROOT/blobs/sha256-…
//
// Only folders are listed and the first bytes of weights read. What is damaged is reported as such, never an error. A
// link is followed as long as it stays in its repository (Hugging Face) or its cache (others). Stateless; any thread;
// the number of entries looked at is bounded. Sizes are bytes.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace mlxf::hub {

// In the order in which they are preferred.
enum class Source : uint8_t { kOwn, kHuggingFace, kLmStudio, kOllama };
[[nodiscard]] const char* name_of(Source source);  // For people, and
[[nodiscard]] const char* key_of(Source source);   // what a model's name may begin with: "hf".

struct CacheRoot {
  Source source = Source::kOwn;
  std::string path;
};

struct CachedModel {
  std::string name;      // "org/name"; "qwen3" or "user/name" of Ollama.
  std::string variant;   // Quantisation or tag; empty where there is one alone.
  std::string revision;  // Of the own cache, when it is not "main".
  Source source = Source::kOwn;
  bool gguf = false;
  std::string path;  // For formats::open_model().
  std::string home;  // The folder that holds this model (own cache) or all of its variants (others).
  uint64_t bytes = 0;
  int64_t modified_s = 0;  // Since 1970, of the newest file.
  std::string fault;       // What is wrong with it; empty: nothing that can be seen from outside.

  // "org/name:Q4_K_M", as -m takes it.
  [[nodiscard]] std::string title() const;
};

// The caches of this user, as the environment places them; own_folder is this program's (plan::cache_folder()).
// Folders that do not exist are left out.
[[nodiscard]] std::vector<CacheRoot> cache_roots(const std::string& own_folder);
// Where pulled models go: $MLX_FLASH_MODELS, or OWN_FOLDER/models.
[[nodiscard]] std::string own_models_folder(const std::string& own_folder);

// Ordered by name, variant, source.
[[nodiscard]] std::vector<CachedModel> find_models(const std::vector<CacheRoot>& roots);

// The model of that name: exactly, or the only one whose last part it is. Of one model in several caches the preferred
// one's is taken, and of Ollama's tags "latest". kNotFound, kInvalidArgument (ambiguous: lists them), or kCorrupt for
// one that is broken, unless `broken_too`.
[[nodiscard]] Result<CachedModel> find_model(const std::vector<CachedModel>& models, std::string_view text,
                                             bool broken_too = false);

}  // namespace mlxf::hub
