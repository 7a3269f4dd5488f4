// What happens where io_uring is refused, as the seccomp filters of containers do: at its creation, at its first use,
// and in the middle of reading. A filter binds only the thread that installs it, so each test has a thread.
#include "storage/uring_device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "storage/open_storage.h"
#include "storage/test_file.h"

#if __has_include(<linux/seccomp.h>)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <array>
#include <cerrno>
#include <cstddef>
#include <thread>

namespace mlxf::storage {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// From now on `call` gives EPERM to this thread and to those it starts. False where filters are not allowed.
bool refuse_system_call(long call) {
  std::array<sock_filter, 4> program{
      sock_filter{BPF_LD | BPF_W | BPF_ABS, 0, 0, offsetof(seccomp_data, nr)},
      sock_filter{BPF_JMP | BPF_JEQ | BPF_K, 0, 1, static_cast<uint32_t>(call)},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ERRNO | EPERM},
      sock_filter{BPF_RET | BPF_K, 0, 0, SECCOMP_RET_ALLOW},
  };
  const sock_fprog filter{program.size(), program.data()};
  return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
         ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

template <typename Body>
void in_a_thread(const Body& body) {
  std::thread(body).join();
}

bool uring_works() { return make_uring_device(1).has_value(); }

TEST(UringDeviceTest, FallsBackToPreadWhereTheKernelRefuses) {
  const TestFile file(100'000);
  for (const long call : {SYS_io_uring_setup, SYS_io_uring_enter}) {
    in_a_thread([&] {
      if (!refuse_system_call(call)) {
        std::fprintf(stderr, "SKIPPED: this system allows no seccomp filters\n");
        return;
      }
      StorageOptions options;
      options.backend = Backend::kIoUring;
      const auto refused = open_storage(options);
      ASSERT_FALSE(refused);
      EXPECT_EQ(refused.error().code, ErrorCode::kUnsupported);
      options.backend = Backend::kAuto;
      const auto storage = open_storage(options);
      ASSERT_TRUE(storage) << storage.error().message;
      EXPECT_THAT((*storage)->description(), AllOf(HasSubstr("pread"), HasSubstr("io_uring")));
      if (uring_works()) ADD_FAILURE() << "the filter has no effect";
      const FileId id = *(*storage)->open(file.path());
      const ReadMemory memory(77, 90'000);
      const auto payload = (*storage)->read(memory.request(id, 77, 90'000));
      ASSERT_TRUE(payload) << payload.error().message;
      EXPECT_EQ(first_difference(*payload, 77), 90'000U);
    });
  }
}

TEST(UringDeviceTest, FailsReadsWhenTheKernelRefusesLater) {
  if (!uring_works()) GTEST_SKIP() << "the kernel refuses io_uring";
  const TestFile file(100'000);
  in_a_thread([&] {
    StorageOptions options;
    options.backend = Backend::kIoUring;
    const auto storage = open_storage(options);
    ASSERT_TRUE(storage) << storage.error().message;
    const FileId id = *(*storage)->open(file.path());
    const ReadMemory memory(0, 100'000);
    ASSERT_TRUE((*storage)->read(memory.request(id, 0, 100'000)));
    if (!refuse_system_call(SYS_io_uring_enter)) return;
    for (int i = 0; i < 3; ++i) {
      const auto payload = (*storage)->read(memory.request(id, 0, 100'000));
      ASSERT_FALSE(payload);
      EXPECT_EQ(payload.error().code, ErrorCode::kIo);
      EXPECT_THAT(payload.error().message, AllOf(HasSubstr(file.path()), HasSubstr("not permitted")));
    }
  });
}

TEST(UringDeviceTest, MayChangeThreads) {
  if (!uring_works()) GTEST_SKIP() << "the kernel refuses io_uring";
  const TestFile file(100'000);
  const auto storage = open_storage({});
  ASSERT_TRUE(storage) << storage.error().message;
  FileId id;
  in_a_thread([&] { id = *(*storage)->open(file.path()); });
  const ReadMemory memory(5, 99'000);
  const ReadRequest request = memory.request(id, 5, 99'000);
  Ticket ticket;
  in_a_thread([&] { ASSERT_TRUE((*storage)->submit({&request, 1}, {&ticket, 1})); });
  const auto done = (*storage)->wait(ticket);
  ASSERT_TRUE(done->status) << done->status.error().message;
  EXPECT_EQ(first_difference(done->payload, 5), 99'000U);
}

}  // namespace
}  // namespace mlxf::storage

#endif
