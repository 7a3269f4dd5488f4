#include "engine/prefix_file.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"
#include "base/crc32c.h"

namespace mlxf::engine {
namespace {

constexpr std::array<uint8_t, 8> kMagic = {'M', 'L', 'X', 'F', 'P', 'R', 'F', 'X'};
constexpr uint32_t kVersion = 2;
// Magic, version, bytes of the head, bytes of the payload, five counts, scope.
constexpr size_t kFixedBytes = 8 + 4 + 4 + 8 + 5 * 4 + 32;
constexpr size_t kWordBytes = 4;

// Numbers are little-endian whatever the machine.
void put(std::vector<uint8_t>& out, uint64_t value, int bytes) {
  for (int i = 0; i < bytes; ++i) out.push_back(static_cast<uint8_t>(value >> (8 * i)));
}
void put_words(std::vector<uint8_t>& out, std::span<const uint32_t> words) {
  for (const uint32_t word : words) put(out, word, kWordBytes);
}

// REQUIRES: there are so many bytes at `at`.
uint64_t get(std::span<const uint8_t> bytes, size_t at, int count) {
  uint64_t value = 0;
  for (int i = 0; i < count; ++i) value |= uint64_t{bytes[at + static_cast<size_t>(i)]} << (8 * i);
  return value;
}

uint64_t chunks_of(uint64_t payload_bytes) {
  return payload_bytes / kPrefixChunkBytes + (payload_bytes % kPrefixChunkBytes != 0 ? 1 : 0);
}

uint64_t trailer_bytes(uint64_t payload_bytes) { return (chunks_of(payload_bytes) + 1) * kWordBytes; }

uint64_t head_bytes(const PrefixHead& head) {
  const uint64_t words =
      head.tokens.size() + head.geometry.size() + head.layout.size() + 2 * head.cuts.size() + 1;
  return kFixedBytes + head.maker.size() + words * kWordBytes;
}

tl::unexpected<Error> corrupt(const char* what) { return fail(ErrorCode::kCorrupt, what); }

// The checksums of a payload that comes in pieces: one for each kPrefixChunkBytes.
class ChunkSums {
 public:
  void add(std::span<const uint8_t> bytes) {
    while (!bytes.empty()) {
      const size_t taken = std::min<size_t>(bytes.size(), kPrefixChunkBytes - in_chunk_);
      sum_ = crc32c(bytes.first(taken), sum_);
      in_chunk_ += taken;
      if (in_chunk_ == kPrefixChunkBytes) end_chunk();
      bytes = bytes.subspan(taken);
    }
  }
  // The trailer: those sums and the one of them. Nothing may be added after it.
  [[nodiscard]] std::vector<uint8_t> trailer() {
    if (in_chunk_ != 0) end_chunk();
    std::vector<uint8_t> out;
    put_words(out, sums_);
    put(out, crc32c(out), kWordBytes);
    return out;
  }

 private:
  void end_chunk() {
    sums_.push_back(sum_);
    sum_ = 0;
    in_chunk_ = 0;
  }
  std::vector<uint32_t> sums_;
  uint32_t sum_ = 0;
  uint64_t in_chunk_ = 0;
};

// Fills parts one after the other with what comes in pieces.
class Filler {
 public:
  explicit Filler(std::span<const std::span<uint8_t>> parts) : parts_(parts) {}
  // REQUIRES: there is room for it.
  void add(std::span<const uint8_t> bytes) {
    while (!bytes.empty()) {
      CHECK(!parts_.empty());
      const std::span<uint8_t> room = parts_.front().subspan(in_part_);
      const size_t taken = std::min(bytes.size(), room.size());
      std::memcpy(room.data(), bytes.data(), taken);
      bytes = bytes.subspan(taken);
      in_part_ += taken;
      if (in_part_ < parts_.front().size()) continue;
      parts_ = parts_.subspan(1);
      in_part_ = 0;
    }
  }

 private:
  std::span<const std::span<uint8_t>> parts_;
  size_t in_part_ = 0;
};

// Touches memory in large steps ahead of those who fill it, so that the disk works meanwhile.
class Toucher {
 public:
  explicit Toucher(std::span<uint8_t> untouched) : untouched_(untouched) {}
  // Another `bytes` will be filled: no more of them lie in it than that.
  void add(uint64_t bytes) {
    due_ += bytes;
    while (due_ > touched_ && !untouched_.empty()) step(std::min(kStepBytes, untouched_.size()));
  }
  void finish() { step(untouched_.size()); }

 private:
  static constexpr size_t kStepBytes = size_t{4} << 20;
  void step(size_t bytes) {
    platform::touch(untouched_.first(bytes));
    untouched_ = untouched_.subspan(bytes);
    touched_ += bytes;
  }
  std::span<uint8_t> untouched_;
  uint64_t due_ = 0, touched_ = 0;
};

// A chunk as it is read, widened to whole blocks, and how many are under way: enough for a queue, and 8 MiB in all.
constexpr uint64_t kBlockBytes = kPrefixChunkBytes + storage::Storage::kAlign;
constexpr uint32_t kBlocks = 7;

}  // namespace

uint32_t PrefixHead::reach(uint32_t common) const {
  uint32_t longest = 0;
  for (const CutRange& range : cuts)
    if (range.first <= common) longest = std::min(range.last, common);
  return longest;
}

uint32_t common_tokens(std::span<const TokenId> a, std::span<const TokenId> b) {
  return static_cast<uint32_t>(std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin());
}

std::vector<CutRange> cuts_of(const kv::Sequence& sequence) {
  // Who can go back to the first position has forgotten nothing.
  if (sequence.truncatable(1) == 1) return {{1, sequence.length()}};
  std::vector<CutRange> ranges;
  for (uint32_t length = sequence.length(); length > 0;) {
    const uint32_t last = sequence.truncatable(length);
    if (last == 0) break;
    uint32_t first = last;
    while (first > 1 && sequence.truncatable(first - 1) == first - 1) --first;
    ranges.push_back({first, last});
    length = first - 1;
  }
  std::reverse(ranges.begin(), ranges.end());
  return ranges;
}

std::vector<uint8_t> encode_head(const PrefixHead& head) {
  const uint64_t bytes = head_bytes(head);
  CHECK(bytes <= kPrefixHeadBytesMax);
  std::vector<uint8_t> out(kMagic.begin(), kMagic.end());
  out.reserve(bytes);
  put(out, kVersion, 4);
  put(out, bytes, 4);
  put(out, head.payload_bytes, 8);
  for (const size_t count :
       {head.maker.size(), head.tokens.size(), head.geometry.size(), head.layout.size(), head.cuts.size()})
    put(out, count, 4);
  out.insert(out.end(), head.scope.begin(), head.scope.end());
  out.insert(out.end(), head.maker.begin(), head.maker.end());
  for (const TokenId token : head.tokens) put(out, static_cast<uint32_t>(token), kWordBytes);
  put_words(out, head.geometry);
  put_words(out, head.layout);
  for (const CutRange& range : head.cuts) {
    put(out, range.first, kWordBytes);
    put(out, range.last, kWordBytes);
  }
  put(out, crc32c(out), kWordBytes);
  CHECK(out.size() == bytes);
  return out;
}

uint64_t prefix_file_bytes(const PrefixHead& head) {
  return head_bytes(head) + head.payload_bytes + trailer_bytes(head.payload_bytes);
}

Result<PrefixHead> parse_head(std::span<const uint8_t> bytes, uint64_t file_bytes) {
  if (bytes.size() < kFixedBytes) return corrupt("it is too short for a head");
  if (!std::equal(kMagic.begin(), kMagic.end(), bytes.begin())) return corrupt("it is no kept prefix");
  if (get(bytes, 8, 4) != kVersion) return corrupt("it is of another version of the format");
  const uint64_t announced = get(bytes, 12, 4);
  if (announced > kPrefixHeadBytesMax || announced > bytes.size()) return corrupt("its head is cut off");
  PrefixHead head;
  head.payload_bytes = get(bytes, 16, 8);
  std::array<uint64_t, 5> counts{};
  for (size_t i = 0; i < counts.size(); ++i) counts[i] = get(bytes, 24 + 4 * i, 4);
  const auto [maker, tokens, geometry, layout, cuts] = counts;
  // Each count is below 2^32: nothing overflows.
  if (kFixedBytes + maker + (tokens + geometry + layout + 2 * cuts + 1) * kWordBytes != announced)
    return corrupt("its head contradicts itself");
  const std::span<const uint8_t> whole = bytes.first(announced);
  if (crc32c(whole.first(announced - kWordBytes)) != get(whole, announced - kWordBytes, 4))
    return corrupt("the checksum of its head is wrong");
  if (head.payload_bytes > file_bytes ||
      announced + head.payload_bytes + trailer_bytes(head.payload_bytes) != file_bytes)
    return corrupt("it is longer or shorter than its head says");
  std::copy_n(whole.begin() + 44, head.scope.size(), head.scope.begin());
  size_t at = kFixedBytes;
  head.maker.assign(whole.begin() + static_cast<ptrdiff_t>(at),
                    whole.begin() + static_cast<ptrdiff_t>(at + maker));
  at += maker;
  const auto next = [&] {
    const auto word = static_cast<uint32_t>(get(whole, at, kWordBytes));
    at += kWordBytes;
    return word;
  };
  head.tokens.resize(tokens);
  for (TokenId& token : head.tokens) token = static_cast<TokenId>(next());
  head.geometry.resize(geometry);
  for (uint32_t& word : head.geometry) word = next();
  head.layout.resize(layout);
  for (uint32_t& word : head.layout) word = next();
  head.cuts.resize(cuts);
  uint32_t before = 0;
  for (CutRange& range : head.cuts) {
    range.first = next();
    range.last = next();
    if (range.first <= before || range.last < range.first) return corrupt("its lengths are out of order");
    before = range.last;
  }
  if (before != tokens) return corrupt("it has not all of its tokens");
  return head;
}

Result<PrefixHead> read_head(const platform::File& file) {
  // Most heads are a few thousand tokens: one read, rarely a second.
  std::vector<uint8_t> bytes(std::min<uint64_t>(file.size(), 64 << 10));
  RETURN_IF_ERROR(file.read_exact(0, bytes));
  if (bytes.size() >= kFixedBytes) {
    const uint64_t announced = std::min(get(bytes, 12, 4), kPrefixHeadBytesMax);
    if (announced > bytes.size() && announced <= file.size()) {
      bytes.resize(announced);
      RETURN_IF_ERROR(file.read_exact(0, bytes));
    }
  }
  return parse_head(bytes, file.size());
}

Status write_prefix(platform::NewFile& file, const PrefixHead& head,
                    std::span<const std::span<uint8_t>> contents, const std::function<bool()>& goes_on) {
  RETURN_IF_ERROR(file.append(encode_head(head)));
  ChunkSums sums;
  uint64_t total = 0;
  for (const std::span<uint8_t> part : contents) {
    if (goes_on && !goes_on()) return fail(ErrorCode::kCancelled, "it is not wanted any more");
    sums.add(part);
    total += part.size();
    RETURN_IF_ERROR(file.append(part));
  }
  CHECK(total == head.payload_bytes);
  return file.append(sums.trailer());
}

Result<ContentsReader> ContentsReader::make(storage::Backend backend) {
  ContentsReader reader(backend);
  ASSIGN_OR_RETURN(reader.memory_, platform::HugeMemory::allocate(kBlocks * kBlockBytes));
  std::memset(reader.memory_.data(), 0, reader.memory_.bytes());
  return reader;
}

Status ContentsReader::read(const platform::File& file, const PrefixHead& head,
                            std::span<const std::span<uint8_t>> contents, std::span<uint8_t> untouched) {
  uint64_t room = 0;
  for (const std::span<uint8_t> part : contents) room += part.size();
  if (room != head.payload_bytes) return corrupt("its contents are not of the size of what it describes");
  ChunkSums sums;
  Filler filler(contents);
  Toucher toucher(untouched);
  const auto take = [&](std::span<const uint8_t> chunk) {
    toucher.add(chunk.size());
    sums.add(chunk);
    filler.add(chunk);
  };
  const uint64_t begin = head_bytes(head);
  if (head.payload_bytes <= kPrefixChunkBytes) {  // Needs no queue.
    const std::span<uint8_t> chunk(memory_.data(), head.payload_bytes);
    RETURN_IF_ERROR(file.read_exact(begin, chunk));
    take(chunk);
  } else {
    RETURN_IF_ERROR(read_chunks(file, begin, head.payload_bytes, take));
  }
  const std::vector<uint8_t> expected = sums.trailer();
  std::vector<uint8_t> trailer(expected.size());
  RETURN_IF_ERROR(file.read_exact(begin + head.payload_bytes, trailer));
  if (trailer != expected) return corrupt("a checksum of its contents is wrong");
  toucher.finish();
  return {};
}

Status ContentsReader::read_chunks(const platform::File& file, uint64_t begin, uint64_t bytes,
                                   const std::function<void(std::span<const uint8_t>)>& take) const {
  storage::StorageOptions options;
  options.backend = backend_;
  options.queue = {.depth = kBlocks, .piece_bytes = kBlockBytes, .requests_max = kBlocks};
  // One for each file, which stays open as long as it.
  ASSIGN_OR_RETURN(const std::unique_ptr<storage::Storage> storage, storage::open_storage(options));
  ASSIGN_OR_RETURN(const storage::FileId id, storage->open(file.path()));
  // Whoever needs it again sets its times meanwhile.
  const platform::FileIdentity& opened = storage->identity(id);
  if (opened.device != file.identity().device || opened.inode != file.identity().inode ||
      opened.bytes != file.identity().bytes)
    return corrupt("it was replaced while it was read");
  std::array<storage::Ticket, kBlocks> tickets;
  const auto submit = [&](uint64_t chunk) {
    storage::ReadRequest request;
    request.file = id;
    request.offset = begin + chunk * kPrefixChunkBytes;
    request.length = std::min(kPrefixChunkBytes, bytes - chunk * kPrefixChunkBytes);
    request.into = memory_.data() + chunk % kBlocks * kBlockBytes;
    request.capacity = kBlockBytes;
    return storage->submit({&request, 1}, {&tickets[chunk % kBlocks], 1});
  };
  const uint64_t chunks = chunks_of(bytes);
  for (uint64_t chunk = 0; chunk < std::min<uint64_t>(chunks, kBlocks); ++chunk)
    RETURN_IF_ERROR(submit(chunk));
  for (uint64_t chunk = 0; chunk < chunks; ++chunk) {
    const storage::Completion done = *storage->wait(tickets[chunk % kBlocks]);
    RETURN_IF_ERROR(done.status);
    take(done.payload);
    if (chunk + kBlocks < chunks) RETURN_IF_ERROR(submit(chunk + kBlocks));
  }
  return {};
}

}  // namespace mlxf::engine
