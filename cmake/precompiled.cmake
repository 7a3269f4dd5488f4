# Headers from outside the project are a third of the time that a build takes, so they are compiled once: one
# precompiled header for the libraries, one for the command line and one for the tests. The last two are also compiled
# with less optimisation: what is to be fast is in libraries. Off where the presets say so, so that a source which does
# not include what it uses is found.
option(MLXF_PRECOMPILED "Compile the headers from outside the project once" ON)

function(mlxf_precompiled_header name header)
  add_library(${name} OBJECT ${CMAKE_SOURCE_DIR}/cmake/precompiled/empty.cpp)
  target_link_libraries(${name} PRIVATE ${ARGN} nlohmann_json::nlohmann_json tl::expected Threads::Threads)
  target_precompile_headers(${name} PRIVATE ${CMAKE_SOURCE_DIR}/cmake/precompiled/${header})
endfunction()

if(MLXF_PRECOMPILED)
  mlxf_precompiled_header(mlxf_precompiled library.h)
  mlxf_precompiled_header(mlxf_precompiled_cli cli.h CLI11::CLI11)
  mlxf_precompiled_header(mlxf_precompiled_test test.h GTest::gmock)
  target_compile_options(mlxf_precompiled_cli PRIVATE ${MLXF_COLD_OPTIONS})
  target_compile_options(mlxf_precompiled_test PRIVATE ${MLXF_COLD_OPTIONS})
endif()

# mlxf_library_settings(TARGET…), mlxf_cli_settings(TARGET…), mlxf_test_settings(TARGET…): for every target with
# sources, by its kind.
function(mlxf_library_settings)
  foreach(target IN LISTS ARGN)
    if(MLXF_PRECOMPILED)
      target_precompile_headers(${target} REUSE_FROM mlxf_precompiled)
    endif()
  endforeach()
endfunction()

function(mlxf_cold_settings precompiled)
  foreach(target IN LISTS ARGN)
    target_compile_options(${target} PRIVATE ${MLXF_COLD_OPTIONS})
    if(MLXF_PRECOMPILED)
      target_precompile_headers(${target} REUSE_FROM ${precompiled})
    endif()
  endforeach()
endfunction()

function(mlxf_cli_settings)
  mlxf_cold_settings(mlxf_precompiled_cli ${ARGN})
endfunction()

function(mlxf_test_settings)
  foreach(target IN LISTS ARGN)
    target_compile_definitions(${target} PRIVATE MLXF_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  endforeach()
  mlxf_cold_settings(mlxf_precompiled_test ${ARGN})
endfunction()
