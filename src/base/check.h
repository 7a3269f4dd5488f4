// CHECK: an invariant of our own code, on in every build; DCHECK: the same for inner loops, compiled out of release
// builds. A failed one prints the place and the condition and aborts the process; any thread may use them.
// Neither may be reachable from a file, a socket or a flag: those get a Result.
#pragma once

namespace mlxf {
[[noreturn]] void check_failed(const char* file, int line, const char* condition);
}

#define CHECK(condition)                                                    \
  do {                                                                      \
    if (!(condition)) ::mlxf::check_failed(__FILE__, __LINE__, #condition); \
  } while (false)

#ifdef NDEBUG
#define DCHECK(condition) \
  do {                    \
  } while (false)
#else
#define DCHECK(condition) CHECK(condition)
#endif
