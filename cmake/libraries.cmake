# The libraries that every module may use, tl-expected and nlohmann-json, those of the tests, GoogleTest, and of the command
# line, CLI11.
find_package(Threads REQUIRED)
if(NOT CMAKE_CROSSCOMPILING)
  find_package(CLI11 REQUIRED)
  find_package(GTest REQUIRED)
  find_package(nlohmann_json REQUIRED)
  find_package(tl-expected REQUIRED)
  return()
endif()

# A cross build: the two libraries that are headers alone come from this machine, through links to their own folders,
# because the rest of /usr/include belongs to this machine's processor; GoogleTest is built from Debian's sources.
set(header_root ${CMAKE_BINARY_DIR}/headers)
file(MAKE_DIRECTORY ${header_root})
foreach(folder nlohmann tl)
  find_path(MLXF_HEADERS_OF_${folder} ${folder} PATHS /usr/local/include /usr/include NO_CMAKE_FIND_ROOT_PATH REQUIRED)
  file(CREATE_LINK ${MLXF_HEADERS_OF_${folder}}/${folder} ${header_root}/${folder} SYMBOLIC)
endforeach()
foreach(library tl::expected nlohmann_json::nlohmann_json)
  add_library(${library} INTERFACE IMPORTED GLOBAL)
  set_target_properties(${library} PROPERTIES INTERFACE_INCLUDE_DIRECTORIES ${header_root})
endforeach()

set(MLXF_GOOGLETEST /usr/src/googletest CACHE PATH "GoogleTest's sources, for a cross build")
if(NOT EXISTS ${MLXF_GOOGLETEST}/CMakeLists.txt)
  message(FATAL_ERROR "${MLXF_GOOGLETEST} does not have GoogleTest's sources: install Debian's package googletest")
endif()
set(INSTALL_GTEST OFF CACHE INTERNAL "")
add_subdirectory(${MLXF_GOOGLETEST} ${CMAKE_BINARY_DIR}/googletest EXCLUDE_FROM_ALL SYSTEM)
foreach(library gtest gmock gtest_main)
  target_compile_options(${library} PRIVATE -w)  # GCC 12 sees faults in it that are its own.
endforeach()
