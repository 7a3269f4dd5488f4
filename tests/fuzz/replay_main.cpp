// Replays a committed corpus through a fuzz target where libFuzzer is absent, so that a finding stays a test under
// every compiler. Takes the same command line as a libFuzzer binary: options, which it passes over, then folders or
// files.
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

void replay_file(const std::filesystem::path& path, int& count) {
  std::ifstream file(path, std::ios::binary);
  const std::vector<char> bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  count++;
}

}  // namespace

int main(int argc, char** argv) {
  int count = 0;
  for (int i = 1; i < argc; i++) {
    const std::string argument = argv[i];
    if (argument.rfind('-', 0) == 0) continue;
    if (std::filesystem::is_directory(argument)) {
      for (const auto& entry : std::filesystem::recursive_directory_iterator(argument)) {
        if (entry.is_regular_file()) replay_file(entry.path(), count);
      }
    } else if (std::filesystem::is_regular_file(argument)) {
      replay_file(argument, count);
    }
  }
  std::printf("replayed %d inputs\n", count);
  return count > 0 ? 0 : 1;  // A corpus that is not there must not look like one that passed.
}
