// ResidentWeights: tensors read into anonymous huge-page memory, whole, and kept.
//
// Filled once while loading (add_… calls, then load), immutable afterwards: any thread may read it. The views
// point into memory owned here. Reading is split over several threads; every byte is read once and copied
// nowhere.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "formats/manifest.h"
#include "kernels/side_by_side.h"
#include "platform/huge_memory.h"
#include "tensor/matrix.h"
#include "weights/stored_matrix.h"

namespace mlxf::weights {

class ResidentWeights {
 public:
  struct Options {
    bool int8_rows = false;  // Quantise 16- and 32-bit matrices to kI8Row while loading (--activations int8).
    // Not null: rows go side by side, put so by this (weights/side_by_side.h).
    kernels::SideBySideFn put_side_by_side = nullptr;
    // Not 0: nothing is read. The matrices are zeros in an arena of so many bytes, around and around, or of the largest
    // matrix: for measuring how fast a model computes.
    uint64_t blank_bytes = 0;
    // Leaves nothing of the files in the page cache: for models larger than memory, where what it holds is taken from
    // the slots.
    bool drop_cached = false;
    uint32_t threads = 1;
    std::function<void(uint64_t bytes_done, uint64_t bytes_total)> progress;  // Called on the loading thread.
  };
  explicit ResidentWeights(const formats::ModelManifest& manifest);
  ~ResidentWeights();
  ResidentWeights(ResidentWeights&&) noexcept;

  // What is declared from now on lies in memory of its own, which take_part() gives away: a part, by its number.
  uint32_t begin_part();

  // Declares a matrix to be loaded; the handle gives its view once load() has returned. The same name twice
  // gives the same handle (tied embeddings), within a part.
  [[nodiscard]] Result<uint32_t> add_matrix(const std::string& name);
  // Rows of that matrix are read or multiplied apart, or in ranges that are not whole groups of kRowsSideBySide: they
  // are not put side by side.
  void keep_rows_apart(uint32_t handle);
  // That matrix is not quantised, whatever `int8_rows` says: an embedding table that is the output matrix, too.
  void keep_floats(uint32_t handle);
  // Keeps the matrix in its stored form whatever the options say (embedding tables read by row, routers).
  [[nodiscard]] Result<uint32_t> add_matrix_as_stored(const std::string& name);
  // [rows, cols] of a tensor stored as [cols, rows], for each of `slices` leading slices (experts stored [in,
  // out]).
  [[nodiscard]] Result<uint32_t> add_transposed(const std::string& name);

  // Small tensors (norms, biases, sinks) as f32, read immediately. Any float type; GGUF block types too.
  [[nodiscard]] Result<std::vector<float>> read_f32(const std::string& name) const;
  [[nodiscard]] bool has(const std::string& name) const;  // A tensor or matrix of that name is in the files.

  [[nodiscard]] Status load(const Options& options);

  [[nodiscard]] const MatrixView& matrix(uint32_t handle) const;
  [[nodiscard]] uint64_t bytes() const;  // Anonymous memory held.
  // The views of that part's matrices are as valid as what is returned. REQUIRES: loaded; once for each part.
  [[nodiscard]] platform::HugeMemory take_part(uint32_t part);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace mlxf::weights
