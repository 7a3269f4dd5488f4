#include "base/check.h"

#include <cstdio>
#include <cstdlib>

namespace mlxf {

void check_failed(const char* file, int line, const char* condition) {
  std::fprintf(stderr, "mlx-flash: internal error: %s:%d: %s\n", file, line, condition);
  std::abort();
}

}  // namespace mlxf
