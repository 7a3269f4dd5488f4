// The file of a kept prefix: a sequence's caches with what they belong to, checksummed. docs/formats/prefix.md.
//
// A head says whose it is, which tokens, which model made it and how its payload is laid out; the payload is
// kv::Sequence::contents(), the trailer its checksums. Nothing of a file is believed before its checksums are right.
// Pure functions but for the reads and writes; any thread, ContentsReader one at a time. Sizes are in bytes.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/token_id.h"
#include "kv/sequence.h"
#include "platform/file.h"
#include "platform/huge_memory.h"
#include "storage/open_storage.h"

namespace mlxf::engine {

// Whose a prefix is: a hash that tells nothing about the API key behind it.
using PrefixScope = std::array<uint8_t, 32>;

// Lengths [first, last] that a sequence can be cut to.
struct CutRange {
  uint32_t first = 0, last = 0;
  friend bool operator==(const CutRange&, const CutRange&) = default;
};

struct PrefixHead {
  std::string maker;  // Program, arithmetic and model: what gives the same bits.
  PrefixScope scope{};
  std::vector<TokenId> tokens;  // What the sequence holds; its length.
  kv::Words geometry;
  kv::Words layout;
  std::vector<CutRange> cuts;  // Ascending.
  uint64_t payload_bytes = 0;
  friend bool operator==(const PrefixHead&, const PrefixHead&) = default;

  // The longest length up to `tokens` that it can be cut to; 0: none.
  [[nodiscard]] uint32_t reach(uint32_t common) const;
};

// Tokens that both begin with.
[[nodiscard]] uint32_t common_tokens(std::span<const TokenId> a, std::span<const TokenId> b);

// The lengths that `sequence` can be cut to.
[[nodiscard]] std::vector<CutRange> cuts_of(const kv::Sequence& sequence);

inline constexpr uint64_t kPrefixChunkBytes = uint64_t{1} << 20;     // That have one checksum.
inline constexpr uint64_t kPrefixHeadBytesMax = uint64_t{32} << 20;  // A longer head is refused.

// With its checksum. REQUIRES: not longer than kPrefixHeadBytesMax.
[[nodiscard]] std::vector<uint8_t> encode_head(const PrefixHead& head);
// The size of the file that begins with that head.
[[nodiscard]] uint64_t prefix_file_bytes(const PrefixHead& head);

// kCorrupt for whatever is not a whole head of this version followed by the bytes that it announces in a file of
// `file_bytes`. `bytes` may go on behind it.
[[nodiscard]] Result<PrefixHead> parse_head(std::span<const uint8_t> bytes, uint64_t file_bytes);
[[nodiscard]] Result<PrefixHead> read_head(const platform::File& file);

// Writes all of `file`, which is empty; does not commit it. `goes_on` is asked before each part; kCancelled once it
// says no. REQUIRES: `contents` has head.payload_bytes.
[[nodiscard]] Status write_prefix(platform::NewFile& file, const PrefixHead& head,
                                  std::span<const std::span<uint8_t>> contents,
                                  const std::function<bool()>& goes_on = {});

// Reads payloads: those of more than a chunk past the page cache, some chunks under way while others are checked and
// copied. Holds what it reads into, 8 MiB, all the time, so that a budget that is made after it knows of them.
class ContentsReader {
 public:
  [[nodiscard]] static Result<ContentsReader> make(storage::Backend backend);
  // Fills `contents`; kCorrupt when they are not of head.payload_bytes, or when a checksum is wrong, and then they are
  // undefined. `untouched` is memory that they lie in: it is touched a little before it is filled, and the rest at the
  // end. REQUIRES: `head` is the file's.
  [[nodiscard]] Status read(const platform::File& file, const PrefixHead& head,
                            std::span<const std::span<uint8_t>> contents, std::span<uint8_t> untouched = {});

 private:
  explicit ContentsReader(storage::Backend backend) : backend_(backend) {}
  // Gives the `bytes` from `begin` on to `take`, a chunk at a time.
  [[nodiscard]] Status read_chunks(const platform::File& file, uint64_t begin, uint64_t bytes,
                                   const std::function<void(std::span<const uint8_t>)>& take) const;
  storage::Backend backend_;
  platform::HugeMemory memory_;
};

}  // namespace mlxf::engine
