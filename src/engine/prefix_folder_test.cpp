#include "engine/prefix_folder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <fstream>
#include <iterator>
#include <numeric>

#include "engine/prefix_store.h"

namespace mlxf::engine {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

const FileTime kBegin = FileTime::clock::now();
FileTime at(int second) { return kBegin - std::chrono::hours(1) + std::chrono::seconds(second); }

// A folder and, as a scheduler's thread, the test itself. Sequences of one layer; a page is 4 KiB.
class PrefixFolderTest : public testing::Test {
 protected:
  static constexpr uint64_t kPage = 64 * 32 * 2;
  static constexpr const char* kModel = "a model";

  void SetUp() override {
    path_ = testing::TempDir() + "/prefix_folder." + std::to_string(getpid());
    fs::remove_all(path_);
  }
  void TearDown() override {
    close();
    fs::remove_all(path_);
  }

  PrefixFolderOptions options(uint64_t bytes_max) {
    PrefixFolderOptions o;
    o.path = path_;
    o.bytes_max = bytes_max;
    o.program = "test 1";
    o.scope_of = [](std::span<const uint8_t> salt, const std::string& user) {
      PrefixScope scope{};
      for (size_t i = 0; i < scope.size(); ++i)
        scope[i] = static_cast<uint8_t>(salt[i] ^ (i < user.size() ? user[i] : '\0'));
      return scope;
    };
    o.log = [this](const std::string& line) { log_ += line + "\n"; };
    return o;
  }
  void open(uint64_t bytes_max = 1 << 20, const std::string& model = kModel) {
    close();
    auto folder = PrefixFolder::open(options(bytes_max));
    ASSERT_TRUE(folder) << folder.error().message;
    folder_ = std::move(*folder);
    shelf_ = attach(model);
  }
  std::unique_ptr<PrefixShelf> attach(const std::string& model = kModel) {
    return folder_->attach(model, make()->geometry(), [this] { ++wakes_; });
  }
  void close() {
    shelf_.reset();
    folder_.reset();
  }

  static std::vector<TokenId> tokens(uint32_t count, TokenId first = 0) {
    std::vector<TokenId> ids(count);
    std::iota(ids.begin(), ids.end(), first);
    return ids;
  }
  std::unique_ptr<kv::Sequence> make() {
    return std::make_unique<kv::Sequence>(pool_, std::span(&shape_, 1), 4096);
  }
  std::unique_ptr<kv::Sequence> filled(const std::vector<TokenId>& ids) {
    auto sequence = make();
    EXPECT_TRUE(sequence->reserve(static_cast<uint32_t>(ids.size())));
    sequence->advance(static_cast<uint32_t>(ids.size()));
    for (const std::span<uint8_t> part : sequence->contents())
      std::fill(part.begin(), part.end(), static_cast<uint8_t>(ids[0] + 1));
    return sequence;
  }
  bool write(const std::vector<TokenId>& ids, const std::string& user = "a", int used = 0) {
    auto sequence = filled(ids);
    memory::Reservation charge = ledger_.reserve(memory::Tag::kPrefix, sequence->bytes()).value();
    return shelf_->write(user, ids, at(used), sequence, charge);
  }
  // Until all that was handed over has ended.
  void finish() {
    shelf_.reset();
    shelf_ = attach();
  }
  // What reading a match gives; null when it failed.
  std::unique_ptr<kv::Sequence> read(const PrefixShelf::Match& match) {
    auto sequence = make();
    EXPECT_TRUE(sequence->restore(match.length, match.layout));
    shelf_->read(match, 7, std::move(sequence), {});
    std::vector<PrefixShelf::Restored> all;
    while (all.empty()) all = shelf_->collect();
    EXPECT_EQ(all.size(), 1u);
    EXPECT_EQ(all[0].ticket, 7u);
    return std::move(all[0].sequence);
  }
  uint32_t found(const std::vector<TokenId>& prompt, const std::string& user = "a") {
    const auto match = shelf_->find(user, prompt);
    return match ? match->tokens : 0;
  }
  std::vector<fs::path> files() const {
    std::vector<fs::path> paths;
    for (const auto& entry : fs::directory_iterator(path_))
      if (entry.path().extension() == ".model")
        for (const auto& file : fs::directory_iterator(entry)) paths.push_back(file.path());
    std::sort(paths.begin(), paths.end());
    return paths;
  }

  std::string path_, log_;
  kv::LayerShape shape_ = kv::PageShape{1, 16, 16, 0};
  kv::PagePool pool_;
  memory::Ledger ledger_{1000 * kPage};
  std::atomic<uint32_t> wakes_{0};
  std::unique_ptr<PrefixFolder> folder_;
  std::unique_ptr<PrefixShelf> shelf_;
};

TEST_F(PrefixFolderTest, KeepsWhatItIsGivenOverARestart) {
  open();
  ASSERT_TRUE(write(tokens(100)));
  EXPECT_EQ(shelf_->leaving_bytes(), 2 * kPage);
  finish();
  EXPECT_EQ(shelf_->leaving_bytes(), 0u);
  EXPECT_EQ(ledger_.snapshot().held_bytes, 0u);
  EXPECT_EQ(wakes_, 1u);
  for (int run = 0; run < 2; ++run) {
    const PrefixFolderStats stats = folder_->stats();
    EXPECT_EQ(stats.entries, 1u);
    EXPECT_EQ(stats.bytes, fs::file_size(files().at(0)));
    const auto match = shelf_->find("a", tokens(90));
    ASSERT_TRUE(match);
    EXPECT_EQ(match->tokens, 89u) << "the last token's logits are needed";
    EXPECT_EQ(match->length, 100u);
    const auto sequence = read(*match);
    ASSERT_NE(sequence, nullptr);
    EXPECT_EQ(sequence->length(), 100u);
    EXPECT_EQ(sequence->contents().front().front(), 1);
    EXPECT_EQ(folder_->stats().hits, 1u);
    open();
  }
  EXPECT_EQ(fs::status(path_).permissions(), fs::perms::owner_all);
  EXPECT_EQ(log_, "");
}

TEST_F(PrefixFolderTest, KeepsUsersModelsAndSaltsApart) {
  open();
  ASSERT_TRUE(write(tokens(100), "a"));
  ASSERT_TRUE(write(tokens(40), ""));
  finish();
  EXPECT_EQ(found(tokens(200)), 100u);
  EXPECT_EQ(found(tokens(200), ""), 40u);
  EXPECT_EQ(found(tokens(200), "b"), 0u);
  open(1 << 20, "another model");
  EXPECT_EQ(found(tokens(200)), 0u);
  shape_ = kv::PageShape{1, 16, 16, 100};
  open();
  EXPECT_EQ(found(tokens(200)), 0u) << "another geometry";
  shape_ = kv::PageShape{1, 16, 16, 0};
  open();
  EXPECT_EQ(found(tokens(200)), 100u) << "they were left alone";
  close();
  fs::remove(path_ + "/salt");
  open();
  EXPECT_EQ(found(tokens(200)), 0u);
  EXPECT_EQ(folder_->stats().rejected, 0u);
}

TEST_F(PrefixFolderTest, FindsTheLongestThatCanBeCutToThePrompt) {
  shape_ = kv::RecurrentShape{4};
  open();
  const auto put = [&](const std::vector<TokenId>& ids) {
    auto sequence = make();
    ASSERT_TRUE(sequence->reserve(static_cast<uint32_t>(ids.size())));
    (void)sequence->recurrent(0).begin(static_cast<uint32_t>(ids.size()));
    sequence->advance(static_cast<uint32_t>(ids.size()));
    memory::Reservation charge = ledger_.reserve(memory::Tag::kPrefix, sequence->bytes()).value();
    ASSERT_TRUE(shelf_->write("a", ids, at(0), sequence, charge));
  };
  std::vector<TokenId> longer = tokens(400);
  longer.back() = -1;
  put(longer);
  put(tokens(150));
  finish();
  EXPECT_EQ(found(tokens(400)), 384u) << "the last border before they part";
  EXPECT_EQ(found(tokens(350)), 320u);
  EXPECT_EQ(found(tokens(300)), 150u) << "the longer one has no state for less than 320";
  EXPECT_EQ(found(tokens(100)), 64u);
  EXPECT_EQ(found(tokens(60)), 0u);
}

TEST_F(PrefixFolderTest, ReplacesWhatALongerOneHolds) {
  open();
  ASSERT_TRUE(write(tokens(100)));
  ASSERT_TRUE(write(tokens(150), "b"));
  finish();
  EXPECT_FALSE(write(tokens(100))) << "it is there already";
  ASSERT_TRUE(write(tokens(300)));
  finish();
  EXPECT_EQ(folder_->stats().entries, 2u);
  EXPECT_EQ(files().size(), 2u);
  EXPECT_EQ(found(tokens(400)), 300u);
  EXPECT_EQ(found(tokens(400), "b"), 150u);
}

TEST_F(PrefixFolderTest, TheLeastRecentlyUsedLeavesFirst) {
  open();
  ASSERT_TRUE(write(tokens(64, 1000), "a", 1));
  finish();
  const uint64_t one = folder_->stats().bytes;
  open(3 * one + one / 2);
  ASSERT_TRUE(write(tokens(64, 3000), "a", 3));
  ASSERT_TRUE(write(tokens(64, 2000), "a", 2));
  finish();
  EXPECT_EQ(folder_->stats().entries, 3u);
  ASSERT_NE(read(*shelf_->find("a", tokens(65, 1000))), nullptr);  // Used now.
  ASSERT_TRUE(write(tokens(64, 4000), "a", 4));
  finish();
  EXPECT_EQ(folder_->stats().entries, 3u);
  EXPECT_EQ(found(tokens(65, 2000)), 0u);
  EXPECT_EQ(found(tokens(65, 1000)), 64u);
  // One that was needed before all that are there is not worth any of them.
  ASSERT_TRUE(write(tokens(64, 5000), "a", 0));
  finish();
  EXPECT_EQ(found(tokens(65, 5000)), 0u);
  EXPECT_EQ(found(tokens(65, 3000)), 64u);
  EXPECT_FALSE(write(tokens(64 * 5, 6000), "a", 9)) << "larger than the cap";
  // The order is known after a restart, and a lower cap is kept from the start.
  open(one + one / 2);
  EXPECT_EQ(folder_->stats().entries, 1u);
  EXPECT_LE(folder_->stats().bytes, one + one / 2);
  EXPECT_EQ(found(tokens(65, 1000)), 64u);
}

TEST_F(PrefixFolderTest, SeveralModelsShareItAndItsCapAtOnce) {
  open();
  ASSERT_TRUE(write(tokens(64, 1000), "a", 2));
  finish();
  const uint64_t one = folder_->stats().bytes;
  open(3 * one + one / 2);
  auto first = std::move(shelf_);
  auto second = attach("another model");
  const auto with = [&](std::unique_ptr<PrefixShelf>& shelf, const auto& work) {
    shelf_ = std::move(shelf);
    auto result = work();
    shelf = std::move(shelf_);
    return result;
  };
  // The same tokens of both: files of their own, in folders of their own.
  ASSERT_TRUE(with(second, [&] { return write(tokens(64, 1000), "a", 1); }));
  ASSERT_TRUE(with(second, [&] { return write(tokens(64, 3000), "a", 3); }));
  second.reset();
  second = attach("another model");
  EXPECT_EQ(folder_->stats().entries, 3u);
  ASSERT_EQ(files().size(), 3u);
  EXPECT_NE(files()[0].parent_path(), files()[2].parent_path());
  EXPECT_EQ(fs::status(files()[0].parent_path()).permissions(), fs::perms::owner_all);
  EXPECT_EQ(with(first, [&] { return found(tokens(65, 1000)); }), 64u);
  EXPECT_EQ(with(first, [&] { return found(tokens(65, 3000)); }), 0u);
  EXPECT_EQ(with(second, [&] { return found(tokens(65, 3000)); }), 64u);
  // One reads while the other is gone; what leaves for its file is the oldest of all.
  const auto match = with(second, [&] { return shelf_->find("a", tokens(65, 3000)); });
  ASSERT_TRUE(with(first, [&] { return write(tokens(64, 4000), "a", 4); }));
  first.reset();
  EXPECT_TRUE(folder_->busy());
  EXPECT_EQ(folder_->stats().entries, 3u);
  EXPECT_EQ(with(second, [&] { return found(tokens(65, 1000)); }), 0u) << "the oldest, of another model";
  EXPECT_NE(with(second, [&] { return read(*match); }), nullptr);
  second.reset();
  EXPECT_FALSE(folder_->busy());
  shelf_ = attach();
  EXPECT_EQ(found(tokens(65, 1000)), 64u);
  EXPECT_EQ(found(tokens(65, 4000)), 64u);
  // With a lower cap only what was used last stays: the file that was read. The other folder goes with its last file.
  open(one + one / 2);
  ASSERT_EQ(files().size(), 1u);
  EXPECT_EQ(found(tokens(65, 4000)), 0u);
  shelf_ = attach("another model");
  EXPECT_EQ(found(tokens(65, 3000)), 64u);
  EXPECT_EQ(std::distance(fs::directory_iterator(path_), fs::directory_iterator()), 3)
      << "a model's folder, the lock and the salt";
}

TEST_F(PrefixFolderTest, AFileOfWhenModelsHadNoFoldersIsUsed) {
  open();
  ASSERT_TRUE(write(tokens(100)));
  finish();
  const fs::path file = files().at(0);
  close();
  fs::rename(file, fs::path(path_) / file.filename());
  open();
  const auto match = shelf_->find("a", tokens(200));
  ASSERT_TRUE(match);
  EXPECT_NE(read(*match), nullptr);
  ASSERT_TRUE(write(tokens(300)));
  finish();
  EXPECT_EQ(folder_->stats().entries, 1u) << "and replaced by one in its model's folder";
  EXPECT_FALSE(fs::exists(fs::path(path_) / file.filename()));
  EXPECT_EQ(found(tokens(400)), 300u);
}

TEST_F(PrefixFolderTest, RemovesWhatIsFaultyOrUnfinishedAndNothingElse) {
  open();
  ASSERT_TRUE(write(tokens(100)));
  ASSERT_TRUE(write(tokens(100, 500)));
  finish();
  const fs::path first = files().at(0);
  close();
  const auto put = [&](const std::string& name, const std::string& text) {
    std::ofstream(path_ + "/" + name) << text;
  };
  const std::string model = first.parent_path().filename();
  put(model + "/" + first.filename().string() + ".part-Ab12Cd", "half");
  put(first.filename().string() + ".part-Ab12Cd", "half");
  put("salt.part-Ab12Cd", "half");
  put(model + "/0000000000000abc.prefix", "no prefix at all");
  put("0000000000000abd.prefix", "");
  put(model + "/notes.txt", "mine");
  put("notes.txt", "mine");
  put("notes.prefix", "mine");
  put("zz00000000000abd.prefix", "mine");
  for (const char* folder : {"00000000000000aa.prefix", "00000000000000ab.model", "notes.model"})
    fs::create_directory(path_ + "/" + folder);
  fs::resize_file(first, fs::file_size(first) - 1);
  open();
  EXPECT_EQ(folder_->stats().entries, 1u);
  EXPECT_EQ(folder_->stats().rejected, 3u);
  EXPECT_THAT(
      log_, HasSubstr("removed the kept prefix " + first.string() + ", which is not used: it is longer or"));
  EXPECT_THAT(log_, HasSubstr("0000000000000abc.prefix, which is not used: it is too short for a head"));
  EXPECT_FALSE(fs::exists(first));
  std::vector<std::string> left;
  for (const auto& entry : fs::recursive_directory_iterator(path_))
    left.push_back(fs::relative(entry.path(), path_));
  EXPECT_THAT(left, testing::UnorderedElementsAre("lock", "salt", "notes.txt", "notes.prefix", "notes.model",
                                                  "zz00000000000abd.prefix", "00000000000000aa.prefix", model,
                                                  model + "/notes.txt", model + "/0000000000000001.prefix"));
  EXPECT_EQ(found(tokens(600, 500)), 100u);
}

TEST_F(PrefixFolderTest, AFaultThatAppearsLaterIsFoundByTheRead) {
  open();
  ASSERT_TRUE(write(tokens(100)));
  finish();
  const auto match = shelf_->find("a", tokens(200));
  ASSERT_TRUE(match);
  {
    std::fstream file(files().at(0), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(-3000, std::ios::end);
    file.put('\x77');
  }
  EXPECT_EQ(read(*match), nullptr);
  EXPECT_EQ(folder_->stats().rejected, 1u);
  EXPECT_EQ(folder_->stats().entries, 0u);
  EXPECT_TRUE(files().empty());
  EXPECT_THAT(log_, HasSubstr("a checksum of its contents is wrong"));
  EXPECT_EQ(read(*match), nullptr) << "it is not there any more";
  EXPECT_EQ(folder_->stats().rejected, 1u);
  ASSERT_TRUE(write(tokens(100)));
  finish();
  EXPECT_EQ(found(tokens(200)), 100u) << "and can be kept again";
}

// Kernels read beyond what a page holds, and count on finite values there.
TEST_F(PrefixFolderTest, AFaultyFileLeavesNoInfinitiesInFreePages) {
  open();
  ASSERT_TRUE(write(tokens(100)));
  finish();
  const auto match = shelf_->find("a", tokens(200));
  {
    std::fstream file(files().at(0), std::ios::binary | std::ios::in | std::ios::out);
    file.seekp(-4096, std::ios::end);
    file << std::string(2048, '\x7f');
  }
  EXPECT_EQ(read(*match), nullptr);
  std::vector<uint16_t*> pages(4);
  for (uint16_t*& page : pages) {
    page = pool_.take(kPage / 2);
    for (size_t i = 0; i < kPage / 4; ++i) ASSERT_NE(page[i] & 0x7c00, 0x7c00) << "element " << i;
  }
  EXPECT_EQ(pool_.free_bytes(), 0u) << "these were the pages";
  for (uint16_t* page : pages) pool_.give_back(page, kPage / 2);
}

TEST_F(PrefixFolderTest, ADiskThatTakesNoMoreEndsWritingWithOneLine) {
  open();
  ASSERT_TRUE(write(tokens(100)));
  finish();
  // As a full disk does it: in the middle of a file.
  rlimit before{};
  getrlimit(RLIMIT_FSIZE, &before);
  const auto previous = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = before;
  small.rlim_cur = 3 * kPage;
  setrlimit(RLIMIT_FSIZE, &small);
  EXPECT_TRUE(write(tokens(600, 5000)));
  (void)write(tokens(700, 9000));  // Refused where the first has failed already.
  finish();
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, previous);
  EXPECT_EQ(ledger_.snapshot().held_bytes, 0u);
  EXPECT_TRUE(folder_->stats().writes_off);
  EXPECT_FALSE(folder_->stats().off);
  EXPECT_THAT(log_, HasSubstr("kept prefixes are no longer written"));
  EXPECT_EQ(std::count(log_.begin(), log_.end(), '\n'), 1);
  EXPECT_FALSE(write(tokens(64)));
  EXPECT_EQ(files().size(), 1u) << "no half of one";
  const auto match = shelf_->find("a", tokens(200));
  ASSERT_TRUE(match);
  EXPECT_NE(read(*match), nullptr) << "what is there can be used";
}

TEST_F(PrefixFolderTest, AFolderThatIsTakenAwayEndsWriting) {
  open();
  fs::remove_all(path_);
  ASSERT_TRUE(write(tokens(100)));
  finish();
  EXPECT_TRUE(folder_->stats().writes_off);
  EXPECT_EQ(std::count(log_.begin(), log_.end(), '\n'), 1);
}

TEST_F(PrefixFolderTest, IsForOneProcess) {
  open();
  const auto second = PrefixFolder::open(options(1 << 20));
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().code, ErrorCode::kUnavailable);
  std::ofstream(path_ + "/file") << "x";
  PrefixFolderOptions o = options(1 << 20);
  o.path += "/file";
  EXPECT_FALSE(PrefixFolder::open(o)) << "no folder";
}

TEST_F(PrefixFolderTest, AStoreWritesWhatLeavesIt) {
  open();
  PrefixStore store(ledger_, 4 * kPage, shelf_.get());
  store.keep("a", tokens(128), filled(tokens(128)));
  store.keep("a", tokens(128, 5000), filled(tokens(128, 5000)));
  store.keep("a", tokens(128, 9000), filled(tokens(128, 9000)));
  EXPECT_EQ(store.entries(), 2u);
  EXPECT_EQ(store.charged_bytes(), 6 * kPage);
  EXPECT_EQ(store.make_room(1000 * kPage - 3 * kPage), PrefixStore::Room::kLater);
  while (shelf_->leaving_bytes() != 0) (void)shelf_->collect();
  EXPECT_EQ(store.charged_bytes(), store.bytes());
  EXPECT_EQ(found(tokens(200)), 128u);
  store.clear();
  finish();
  EXPECT_EQ(folder_->stats().entries, 3u);
  EXPECT_EQ(ledger_.snapshot().held_bytes, 0u);
}

// A store whose entries are written while they stay.
class WriteBehind : public PrefixFolderTest {
 protected:
  void SetUp() override {
    PrefixFolderTest::SetUp();
    open();
    store_ = std::make_unique<PrefixStore>(ledger_, 1000 * kPage, shelf_.get());
  }
  void TearDown() override {
    store_.reset();
    PrefixFolderTest::TearDown();
  }
  void keep(const std::vector<TokenId>& ids) { store_->keep("a", ids, filled(ids)); }
  void write_behind(double token_seconds = 0.0) { store_->write_behind(FileTime::max(), token_seconds); }
  void await() {
    while (shelf_->behind() != 0) (void)shelf_->collect();
  }
  void finish_all() {
    while (shelf_->leaving_bytes() != 0) (void)shelf_->collect();
  }
  // All that may be written.
  uint64_t settle() {
    for (int i = 0; i < 10; ++i) {
      write_behind();
      await();
    }
    return folder_->stats().writes;
  }
  std::unique_ptr<PrefixStore> store_;
};

TEST_F(WriteBehind, WritesEachEntryOnceAndItStays) {
  keep(tokens(128));
  keep(tokens(128, 5000));
  store_->write_behind(FileTime::clock::now() - std::chrono::hours(1), 0.0);
  EXPECT_EQ(shelf_->behind(), 0u) << "used too lately";
  EXPECT_EQ(settle(), 2u);
  EXPECT_EQ(store_->entries(), 2u);
  EXPECT_EQ(store_->bytes(), 4 * kPage);
  EXPECT_EQ(ledger_.snapshot().held_bytes, 4 * kPage);
  EXPECT_EQ(found(tokens(129)), 128u);
  EXPECT_EQ(found(tokens(129, 5000)), 128u);
  EXPECT_EQ(settle(), 2u);
  store_->clear();
  EXPECT_EQ(shelf_->leaving_bytes(), 0u) << "there is nothing left to write";
  EXPECT_EQ(ledger_.snapshot().held_bytes, 0u);
  EXPECT_EQ(folder_->stats().writes, 2u);
}

TEST_F(WriteBehind, AConversationIsWrittenAgainOnceItHasGrownByAFifth) {
  uint64_t written = 0;
  for (uint32_t length = 100; length <= 2000; length += 20) {
    keep(tokens(length));
    const uint64_t before = folder_->stats().writes;
    if (settle() != before) written += length;
  }
  EXPECT_GT(written, 2000u);
  EXPECT_LT(written, 5 * 2000u);
  EXPECT_EQ(folder_->stats().entries, 1u);
  // All of it once it leaves.
  const uint64_t before = folder_->stats().writes;
  store_->clear();
  finish_all();
  EXPECT_EQ(found(tokens(2001)), 2000u);
  EXPECT_LE(folder_->stats().writes, before + 1);
}

TEST_F(WriteBehind, WhatIsComputedSoonerThanReadStays) {
  keep(tokens(128));
  write_behind(1e-9);
  EXPECT_EQ(shelf_->behind(), 0u);
  keep(tokens(256, 5000));
  write_behind(1.0);
  EXPECT_NE(shelf_->behind(), 0u);
  await();
  EXPECT_EQ(folder_->stats().writes, 1u);
}

TEST_F(WriteBehind, WaitsWhileAnySchedulerWorks) {
  keep(tokens(128));
  const auto other = attach("another model");
  other->set_working(true);
  EXPECT_EQ(settle(), 0u);
  other->set_working(false);
  EXPECT_EQ(settle(), 1u);
}

// Whoever goes on with an entry, replaces it, or makes room while it is being written.
TEST_F(WriteBehind, WhatIsBeingWrittenMayBeWantedReplacedOrLeave) {
  for (int round = 0; round < 30; ++round) {
    SCOPED_TRACE(round);
    const TokenId first = round * 10'000;
    keep(tokens(3000, first));
    write_behind();
    ASSERT_NE(shelf_->behind(), 0u);
    if (round % 3 == 0) {
      const auto match = store_->find("a", tokens(3001, first));
      ASSERT_TRUE(match);
      while (store_->withheld(*match)) (void)shelf_->collect();
      const auto sequence = store_->take(*match);
      for (const std::span<uint8_t> part : sequence->contents())
        std::fill(part.begin(), part.end(), uint8_t{0});
    } else if (round % 3 == 1) {
      keep(tokens(3010, first));
    } else {
      store_->clear();
    }
    await();
    EXPECT_EQ(shelf_->leaving_bytes(), 0u);
    EXPECT_EQ(ledger_.snapshot().held_bytes, store_->bytes());
    if (round % 3 == 2) {
      EXPECT_EQ(found(tokens(3001, first)), 3000u) << "it was written as it left";
    }
    store_->clear();
    finish_all();
    // Nothing was written of what came later.
    if (const auto match = shelf_->find("a", tokens(3001, first))) {
      const auto sequence = read(*match);
      ASSERT_NE(sequence, nullptr);
      for (const std::span<uint8_t> part : sequence->contents())
        ASSERT_EQ(part.front(), static_cast<uint8_t>(first + 1));
    }
  }
  EXPECT_EQ(folder_->stats().rejected, 0u);
  EXPECT_FALSE(folder_->stats().writes_off) << "ending a write is no failure";
  EXPECT_EQ(ledger_.snapshot().held_bytes, 0u);
}

TEST_F(WriteBehind, AReadComesBetween) {
  ASSERT_TRUE(write(tokens(64, 90'000)));
  finish_all();
  keep(tokens(4000));
  write_behind();
  EXPECT_NE(read(*shelf_->find("a", tokens(65, 90'000))), nullptr);
  await();
  EXPECT_EQ(found(tokens(4001)), 4000u);
}

}  // namespace
}  // namespace mlxf::engine
