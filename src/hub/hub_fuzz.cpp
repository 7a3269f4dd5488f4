// What servers and other programs write: descriptions of repositories and Ollama's manifests. What passes must stay
// inside the folder that it is joined to.
#include <cstdlib>

#include "hub/model_name.h"
#include "hub/ollama_manifest.h"
#include "hub/repository.h"

namespace mlxf::hub {
namespace {

void fuzz(std::string_view bytes) {
  if (const auto blob = parse_ollama_manifest(bytes))
    if (blob->file_name.size() != 71 || blob->file_name.find('/') != std::string::npos) std::abort();
  if (const auto name = parse_model_name(bytes))
    if (file_path_fault(name->name) != nullptr) std::abort();
  const auto repository = parse_repository(bytes);
  if (!repository) return;
  for (const char* quantisation : {"", "Q4_K_M"}) {
    const auto selection = select_files(*repository, quantisation);
    if (!selection) continue;
    if (selection->files.empty()) std::abort();
    for (const RemoteFile& file : selection->files)
      if (file_path_fault(file.local_name()) != nullptr || file.local_name().find('/') != std::string::npos)
        std::abort();
  }
}

}  // namespace
}  // namespace mlxf::hub

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  mlxf::hub::fuzz({reinterpret_cast<const char*>(data), size});
  return 0;
}
