# The Rust crate in bridge/ as the imported static library mlxf_bridge, built by cargo with the versions that
# bridge/Cargo.lock names. All presets share one cargo folder: the crate does not depend on their flags, and it
# takes minutes to compile.
set(MLXF_BRIDGE_TARGET_DIR ${CMAKE_SOURCE_DIR}/build/bridge CACHE PATH "Where cargo builds bridge/")
set(MLXF_RUST_VERSION_MIN 1.87)

find_program(MLXF_CARGO cargo HINTS $ENV{CARGO_HOME}/bin $ENV{HOME}/.cargo/bin)
if(NOT MLXF_CARGO)
  message(FATAL_ERROR "cargo is missing: install rustup's, or Debian's packages cargo-web and rustc-web "
                      "(Debian 12's plain cargo is too old)")
endif()
execute_process(COMMAND ${MLXF_CARGO} --version OUTPUT_VARIABLE cargo_version)
string(REGEX MATCH "[0-9]+\\.[0-9]+" cargo_version "${cargo_version}")
if(cargo_version VERSION_LESS MLXF_RUST_VERSION_MIN)
  message(FATAL_ERROR "${MLXF_CARGO} is version ${cargo_version}, but bridge/ needs ${MLXF_RUST_VERSION_MIN}: "
                      "install rustup's, or Debian's packages cargo-web and rustc-web")
endif()

file(GLOB bridge_sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/bridge/src/*.rs)
set(bridge_library ${MLXF_BRIDGE_TARGET_DIR}/release/libmlxf_bridge.a)
# cargo leaves the library's time alone when nothing changed for it, hence the touch.
add_custom_command(
  OUTPUT ${bridge_library}
  COMMAND ${CMAKE_COMMAND} -E env CARGO_TARGET_DIR=${MLXF_BRIDGE_TARGET_DIR}
          ${MLXF_CARGO} build --release --locked --quiet
  COMMAND ${CMAKE_COMMAND} -E touch ${bridge_library}
  DEPENDS ${bridge_sources} ${CMAKE_SOURCE_DIR}/bridge/Cargo.toml ${CMAKE_SOURCE_DIR}/bridge/Cargo.lock
  WORKING_DIRECTORY ${CMAKE_SOURCE_DIR}/bridge
  COMMENT "Building bridge/ with cargo"
  VERBATIM)
add_custom_target(mlxf_bridge_build DEPENDS ${bridge_library})

add_library(mlxf_bridge STATIC IMPORTED GLOBAL)
set_target_properties(mlxf_bridge PROPERTIES
  IMPORTED_LOCATION ${bridge_library}
  INTERFACE_INCLUDE_DIRECTORIES ${CMAKE_SOURCE_DIR}/bridge/include
  INTERFACE_LINK_LIBRARIES "Threads::Threads;${CMAKE_DL_LIBS};m")
add_dependencies(mlxf_bridge mlxf_bridge_build)
