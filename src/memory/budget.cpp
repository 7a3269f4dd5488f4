#include "memory/budget.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <cmath>
#include <optional>

#include "base/checked.h"

namespace mlxf::memory {
namespace {

constexpr uint64_t kKiB = 1024;
constexpr uint64_t kMiB = kKiB << 10;
constexpr uint64_t kGiB = kMiB << 10;
constexpr uint64_t kTiB = kGiB << 10;

// The user's programs: on a small machine the largest thing that usually appears at once is a browser with a few
// pages, about 1 GiB; what people run grows with the machine they buy, hence a tenth; but not without end, hence
// 16 GiB.
constexpr uint64_t kHostReserveMin = kGiB;
constexpr uint64_t kHostReserveMax = 16 * kGiB;
constexpr uint64_t kHostReserveDivisor = 10;
// In a limited group there is mostly us: the rest is page tables (0.2 % of 4 KiB pages), kernel buffers of our files
// and sockets, and a shell or a sidecar. The kernel kills at the limit, so a margin stays whatever the size.
constexpr uint64_t kGroupReserveMin = 64 * kMiB;
constexpr uint64_t kGroupReserveDivisor = 33;  // 3 %.

struct Unit {
  const char* name;
  uint64_t bytes;
};
constexpr std::array<Unit, 14> kUnits{{{"", 1},
                                       {"b", 1},
                                       {"k", kKiB},
                                       {"m", kMiB},
                                       {"g", kGiB},
                                       {"t", kTiB},
                                       {"kib", kKiB},
                                       {"mib", kMiB},
                                       {"gib", kGiB},
                                       {"tib", kTiB},
                                       {"kb", 1000},
                                       {"mb", 1000000},
                                       {"gb", 1000000000},
                                       {"tb", 1000000000000}}};

tl::unexpected<Error> refuse(std::string_view text, const char* why) {
  // What a stranger may have sent is cut to a readable length.
  std::string shown(text.substr(0, 40));
  for (char& c : shown)
    if (std::isprint(static_cast<unsigned char>(c)) == 0) c = '?';
  return fail(ErrorCode::kInvalidArgument,
              "memory budget '" + shown + "': " + why +
                  "; give auto, a share such as 50%, or a size such as 4GiB, 4096MiB, "
                  "4G, 512m or a number of bytes");
}

// digits[.digits] as whole and a fraction of at most nine digits, so that whole sizes stay exact.
struct Decimal {
  uint64_t whole = 0;
  double fraction = 0;
};

std::optional<Decimal> parse_decimal(std::string_view text) {
  Decimal out;
  size_t at = 0;
  const auto is_digit = [&] { return at < text.size() && text[at] >= '0' && text[at] <= '9'; };
  if (!is_digit()) return std::nullopt;
  for (; is_digit(); ++at) {
    const auto tenfold = checked_mul(out.whole, 10);
    const auto sum = tenfold ? checked_add(*tenfold, static_cast<uint64_t>(text[at] - '0')) : std::nullopt;
    if (!sum) return std::nullopt;
    out.whole = *sum;
  }
  if (at == text.size()) return out;
  if (text[at++] != '.' || !is_digit() || text.size() - at > 9) return std::nullopt;
  for (double place = 0.1; is_digit(); ++at, place /= 10) out.fraction += place * (text[at] - '0');
  if (at != text.size()) return std::nullopt;
  return out;
}

uint64_t at_most_half(uint64_t reserve, uint64_t room, uint64_t held) {
  return std::min(reserve, checked_add(room, held).value_or(~uint64_t{0}) / 2);
}

uint64_t less(uint64_t a, uint64_t b) { return a - std::min(a, b); }

// "11.2 GiB available, cgroup limit 8 GiB"
std::string available_text(const platform::MemoryReading& reading) {
  std::string out = size_text(reading.available_bytes) + " available";
  if (reading.limit_bytes < reading.total_bytes) {
    out += ", cgroup limit " + size_text(reading.limit_bytes);
    if (reading.limit_room_bytes < reading.available_bytes)
      out += " (" + size_text(reading.limit_room_bytes) + " free)";
  }
  return out;
}

}  // namespace

Result<BudgetRequest> parse_budget(std::string_view text) {
  std::string lower(text);
  for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  BudgetRequest request;
  request.text = lower;
  if (lower == "auto") return request;
  const size_t digits = std::min(lower.find_first_not_of("0123456789."), lower.size());
  const auto number = parse_decimal(std::string_view(lower).substr(0, digits));
  const std::string unit = lower.substr(digits);
  if (!number) return refuse(text, "not a size");
  if (unit == "%") {
    request.kind = BudgetRequest::Kind::kShare;
    request.share = (static_cast<double>(number->whole) + number->fraction) / 100;
    if (!(request.share > 0 && request.share <= 1))
      return refuse(text, "a share is above 0 % and at most 100 %");
    return request;
  }
  const auto* found =
      std::find_if(kUnits.begin(), kUnits.end(), [&](const Unit& u) { return unit == u.name; });
  if (found == kUnits.end()) return refuse(text, "an unknown unit");
  const auto part = static_cast<uint64_t>(std::llround(number->fraction * static_cast<double>(found->bytes)));
  const auto whole = checked_mul(number->whole, found->bytes);
  const auto bytes = whole ? checked_add(*whole, part) : std::nullopt;
  if (!bytes) return refuse(text, "more than any machine has");
  if (*bytes == 0) return refuse(text, "nothing can run in no memory");
  if (found->bytes == 1 && number->fraction != 0) return refuse(text, "no part of a byte can be had");
  request.kind = BudgetRequest::Kind::kBytes;
  request.bytes = *bytes;
  return request;
}

uint64_t most_bytes(const platform::MemoryReading& reading) {
  return std::min(reading.total_bytes, reading.limit_bytes);
}

Reserves reserves_for(const platform::MemoryReading& reading, uint64_t held_by_us) {
  Reserves out;
  const uint64_t host =
      std::clamp(reading.total_bytes / kHostReserveDivisor, kHostReserveMin, kHostReserveMax);
  out.host_bytes = at_most_half(host, reading.available_bytes, held_by_us);
  if (reading.limit_bytes == platform::kNoMemoryLimit) return out;
  const uint64_t group = std::max(most_bytes(reading) / kGroupReserveDivisor, kGroupReserveMin);
  out.group_bytes = at_most_half(group, reading.limit_room_bytes, held_by_us);
  return out;
}

Budget resolve_budget(const BudgetRequest& request, const platform::MemoryReading& reading,
                      uint64_t held_by_us) {
  const uint64_t most = most_bytes(reading);
  if (request.kind == BudgetRequest::Kind::kAuto) {
    const Reserves reserves = reserves_for(reading, held_by_us);
    const auto spend = [&](uint64_t room, uint64_t reserve) {
      return less(checked_add(room, held_by_us).value_or(~uint64_t{0}), reserve);
    };
    const uint64_t of_host = spend(reading.available_bytes, reserves.host_bytes);
    const uint64_t of_group = spend(reading.limit_room_bytes, reserves.group_bytes);
    Budget budget{std::min({of_host, of_group, most}), ""};
    budget.reason = "auto: " + available_text(reading);
    if (held_by_us >= 64 * kMiB) budget.reason += ", " + size_text(held_by_us) + " held already";
    budget.reason += of_host <= of_group
                         ? ", " + size_text(reserves.host_bytes) + " left for other programs"
                         : ", " + size_text(reserves.group_bytes) + " of the cgroup left for all else in it";
    return budget;
  }
  const bool limited = reading.limit_bytes < reading.total_bytes;
  const std::string of = size_text(most) + (limited ? " that the cgroup limit allows" : " of memory");
  Budget budget;
  if (request.kind == BudgetRequest::Kind::kShare) {
    budget.bytes = std::min(most, static_cast<uint64_t>(static_cast<double>(most) * request.share));
    budget.reason = request.text + " of the " + of;
  } else {
    budget.bytes = std::min(most, request.bytes);
    budget.reason = size_text(request.bytes) +
                    (request.bytes > most ? " asked for, but at most the " + of : " asked for");
  }
  const uint64_t now = std::min(reading.available_bytes, reading.limit_room_bytes);
  const uint64_t had = checked_add(now, held_by_us).value_or(~uint64_t{0});
  if (had < budget.bytes) budget.reason += "; only " + size_text(had) + " can be had now";
  return budget;
}

std::string size_text(uint64_t bytes) {
  constexpr std::array<Unit, 4> kShown{{{"TiB", kTiB}, {"GiB", kGiB}, {"MiB", kMiB}, {"KiB", kKiB}}};
  for (size_t i = 0; i < kShown.size(); ++i) {
    const auto [name, unit] = kShown[i];
    if (bytes < unit) continue;
    const uint64_t tenths = bytes / unit * 10 + (bytes % unit * 10 + unit / 2) / unit;
    // 1023.96 MiB rounds to 1 GiB.
    if (tenths >= 10240 && i > 0) return std::string("1 ") + kShown[i - 1].name;
    std::string out = std::to_string(tenths / 10);
    if (tenths % 10 != 0) out += "." + std::to_string(tenths % 10);
    return out + " " + name;
  }
  return std::to_string(bytes) + " bytes";
}

}  // namespace mlxf::memory
