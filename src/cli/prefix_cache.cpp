#include "cli/prefix_cache.h"

#include <cstdio>
#include <utility>

#include "hub/digest.h"
#include "memory/budget.h"
#include "platform/process.h"
#include "server/access.h"

namespace mlxf::cli {
namespace {

std::span<const uint8_t> bytes_of(const std::string& text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}

// A hash of the key, not of its place in the file of keys, which changes; nobody's is that of no key at all.
engine::PrefixScope scope_of(std::span<const uint8_t> salt, const std::string& user,
                             const std::vector<std::string>& keys) {
  hub::Digest digest = hub::Digest::sha256();
  digest.add(salt);
  digest.add(bytes_of(user.empty() ? "no key" : "key "));
  for (size_t i = 0; i < keys.size(); ++i)
    if (user == server::user_of_key(i)) digest.add(bytes_of(keys[i]));
  const std::string hex = digest.finish();
  const auto nibble = [](char digit) { return digit <= '9' ? digit - '0' : digit - 'a' + 10; };
  engine::PrefixScope scope{};
  for (size_t i = 0; i < scope.size(); ++i)
    scope[i] = static_cast<uint8_t>(nibble(hex[2 * i]) << 4 | nibble(hex[2 * i + 1]));
  return scope;
}

}  // namespace

void PrefixCacheFlags::add_to(CLI::App& command) {
  CLI::Option* option =
      command
          .add_option("--prefix-cache", folder,
                      "Folder on the SSD for the beginnings of conversations that leave memory, so that they "
                      "are read and not computed again, after a restart too (default: none)")
          ->type_name("DIR");
  command.add_option("--prefix-cache-size", size, "Most bytes in it; what was not used longest leaves")
      ->type_name("SIZE")
      ->capture_default_str()
      ->needs(option);
  command
      .add_option(
          "--prefix-cache-after", settle_seconds,
          "Seconds after its last use that what is still in memory is written, too, while nobody asks")
      ->capture_default_str()
      ->check(CLI::Range(0, 86400))
      ->needs(option);
}

Result<std::unique_ptr<engine::PrefixFolder>> PrefixCacheFlags::open(std::vector<std::string> keys,
                                                                     storage::Backend io) const {
  if (folder.empty()) return nullptr;
  const auto bytes = memory::parse_budget(size);
  if (!bytes || bytes->kind != memory::BudgetRequest::Kind::kBytes)
    return fail(ErrorCode::kInvalidArgument,
                "--prefix-cache-size " + size + " is no size: give 16GiB, for example");
  engine::PrefixFolderOptions options;
  options.path = folder;
  options.bytes_max = bytes->bytes;
  options.io = io;
  options.program = std::string("mlx-flash ") + MLXF_VERSION + ", " + platform::program_identity();
  options.scope_of = [keys = std::move(keys)](std::span<const uint8_t> salt, const std::string& user) {
    return scope_of(salt, user, keys);
  };
  options.log = [](const std::string& line) { std::fprintf(stderr, "%s\n", line.c_str()); };
  auto opened = engine::PrefixFolder::open(std::move(options));
  if (!opened) return tl::unexpected<Error>(opened.error().within("--prefix-cache"));
  return opened;
}

}  // namespace mlxf::cli
