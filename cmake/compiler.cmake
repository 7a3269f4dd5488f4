# Warnings are errors everywhere; sanitizers are chosen by preset.
add_compile_options(-Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wcast-align
                    -Woverloaded-virtual -Werror -fno-math-errno -ffp-contract=off)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  add_compile_options(-Wthread-safety)
else()
  # GCC 12 reports false positives for these inside its own headers, with precompiled headers more of them; clang looks
  # for the same faults in the presets that use it.
  add_compile_options(-Wno-restrict -Wno-maybe-uninitialized -Wno-stringop-overflow -Wno-stringop-overread
                      -Wno-array-bounds)
endif()
if(MLXF_SANITIZE)
  add_compile_options(-fsanitize=${MLXF_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  add_link_options(-fsanitize=${MLXF_SANITIZE})
endif()
if(MLXF_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
find_program(CCACHE ccache)
if(CCACHE)
  # With precompiled headers it needs to be told that their dates and the defines of a target do not matter.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime ${CCACHE})
  if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    add_compile_options("SHELL:-Xclang -fno-pch-timestamp")
  else()
    add_compile_options(-fpch-preprocess)
  endif()
endif()
set(MLXF_HOT_OPTIONS "" CACHE STRING "Options for modules with loops over weights, after all others")
# The command line and the tests: their own code does not have to be fast, what they call is.
set(MLXF_COLD_OPTIONS "-O1" CACHE STRING "Options for the sources of tests and the command line, after all others")
