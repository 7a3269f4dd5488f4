// PagePool: memory for key/value pages, in a few size classes, kept for reuse once freed.
//
// A new page first gives as much of other sizes' free pages back to the system, so that the pool holds no more than was
// once in use together, and not each size's own peak. Owned by the model, borrowed by its sequences, which it outlives.
// One thread (the engine's). Pages are 64-byte aligned; a fresh page is zeroed and a reused one holds old finite
// values, so that kernels may read the rest of a partly filled page without meeting a NaN. Sizes are in bytes.
//
// A sequence grows by a page at a time. One that comes back whole takes what is free and the rest as a run: one
// mapping, of huge pages where the system gives them, that another thread may touch. Its pages then live as all others
// do; the last one that goes back to the system takes the mapping with it.
//
// Several caches may hold one page: each but the first adds a reference, and a page lies free once all have given it
// back. Nobody writes to a page that others hold: see unshared(). Where nothing is shared, none of this costs anything.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "platform/huge_memory.h"

namespace mlxf::kv {

class PagePool {
 public:
  // Holds no more than `bytes_max`.
  explicit PagePool(uint64_t bytes_max = UINT64_MAX);
  ~PagePool();
  PagePool(const PagePool&) = delete;
  PagePool& operator=(const PagePool&) = delete;

  // Null when the operating system has no memory left, or the pool may hold no more. REQUIRES: bytes > 0.
  [[nodiscard]] uint16_t* take(uint64_t bytes);
  // `page` came from take(bytes). It stays as it is while others hold it.
  void give_back(uint16_t* page, uint64_t bytes);

  // One more holds `page`, which somebody holds, and gives it back. `lasting_bytes`: its size, where it is given back
  // with its sequence or when that goes back alone, and not as it grows.
  void share(const uint16_t* page, uint64_t lasting_bytes = 0) {
    Shared& shared = shared_[page];
    ++shared.others;
    shared.lasting_bytes = lasting_bytes;
    doubled_bytes_ += lasting_bytes;
  }
  // More than one hold it.
  [[nodiscard]] bool shared(const uint16_t* page) const {
    return !shared_.empty() && shared_.find(page) != shared_.end();
  }
  // For who holds `page` and wants to write to it: the page itself, or in exchange for it a copy that is nobody else's;
  // null without memory, and then nothing has changed.
  [[nodiscard]] uint16_t* unshared(uint16_t* page, uint64_t bytes);

  // Until end_run(), fresh pages that consist of whole pages of the system, `bytes_max` of them at most, lie one behind
  // the other in the order of their taking, in memory that nobody has touched.
  void begin_run(uint64_t bytes_max);
  // That memory, which counts as the pages in it do. Who gives it work to another thread touches none of it before.
  std::span<uint8_t> end_run();

  // All pages, in use or waiting for reuse; a shared one counts once.
  [[nodiscard]] uint64_t bytes() const { return bytes_; }
  [[nodiscard]] uint64_t free_bytes() const { return free_bytes_; }
  // How much more than bytes() all who share lasting pages hold, each for itself.
  [[nodiscard]] uint64_t doubled_bytes() const { return doubled_bytes_; }
  // Pages that more than one hold.
  [[nodiscard]] uint64_t shared_pages() const { return shared_.size(); }

 private:
  struct SizeClass {
    uint64_t page_bytes = 0;
    uint64_t pages = 0;                 // In use or free.
    std::vector<uint16_t*> free_pages;  // Has room for all of them, so that giving back takes no memory.
  };
  struct Run {
    platform::HugeMemory memory;
    uint64_t taken_bytes = 0;
    uint64_t pages = 0;  // In use or free.
  };
  struct Shared {
    uint32_t others = 0;  // Holders but for one.
    uint64_t lasting_bytes = 0;
  };
  SizeClass& size_class(uint64_t bytes);
  // Null: it has to be taken otherwise.
  [[nodiscard]] uint16_t* take_from_run(uint64_t bytes);
  // Gives at least `bytes` of free pages that are not of `size` (null: of any) back to the system, where there are so
  // many.
  void free_others(const SizeClass* size, uint64_t bytes);
  void free_page(uint16_t* page, uint64_t bytes);

  const uint64_t bytes_max_;
  std::vector<SizeClass> classes_;
  std::unordered_map<const uint16_t*, Shared> shared_;
  std::vector<Run> runs_;
  std::optional<Run> open_;  // Between begin_run() and end_run().
  uint64_t bytes_ = 0;
  uint64_t free_bytes_ = 0;
  uint64_t doubled_bytes_ = 0;
};

}  // namespace mlxf::kv
