# Cross-compiles for 64-bit ARM with Debian's g++-aarch64-linux-gnu; programs run under QEMU's user emulation.
# MLXF_EMULATED_CPU: which processor QEMU plays ("max": everything that it knows).
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(MLXF_TARGET_ROOT /usr/aarch64-linux-gnu)
set(MLXF_EMULATED_CPU max)
find_program(MLXF_QEMU NAMES qemu-aarch64-static qemu-aarch64)
set(CMAKE_CROSSCOMPILING_EMULATOR ${MLXF_QEMU} -cpu ${MLXF_EMULATED_CPU} -L ${MLXF_TARGET_ROOT})
# This machine's own libraries and headers are of another processor.
set(CMAKE_FIND_ROOT_PATH ${MLXF_TARGET_ROOT})
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
