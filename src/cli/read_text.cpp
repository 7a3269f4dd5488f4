#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "cli/commands.h"

namespace mlxf::cli {

Result<std::string> read_text(const std::string& path) {
  const auto close = [](std::FILE* file) {
    if (file != stdin) std::fclose(file);
  };
  const std::unique_ptr<std::FILE, decltype(close)> file(path == "-" ? stdin : std::fopen(path.c_str(), "rb"),
                                                         close);
  if (file == nullptr)
    return fail(ErrorCode::kInvalidArgument, path + ": cannot open: " + std::strerror(errno));
  std::string text;
  char buffer[1 << 16];
  for (size_t n; (n = std::fread(buffer, 1, sizeof buffer, file.get())) > 0;) text.append(buffer, n);
  if (std::ferror(file.get()) != 0)
    return fail(ErrorCode::kInvalidArgument, path + ": cannot read: " + std::strerror(errno));
  return text;
}

}  // namespace mlxf::cli
