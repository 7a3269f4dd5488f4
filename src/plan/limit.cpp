#include "plan/limit.h"

#include <cmath>

namespace mlxf::plan {
namespace {

Status check(const PassWork& work, const MachineRates& rates) {
  const std::pair<const char*, double> numbers[] = {{"dense_bytes", work.dense_bytes},
                                                    {"expert_bytes", work.expert_bytes},
                                                    {"kv_bytes", work.kv_bytes},
                                                    {"hit_rate", work.hit_rate},
                                                    {"streamed_dense_bytes", work.streamed_dense_bytes},
                                                    {"active_parameters", work.active_parameters},
                                                    {"positions", work.positions},
                                                    {"distinct_experts", work.distinct_experts},
                                                    {"gained_tokens", work.gained_tokens},
                                                    {"ram_bytes_per_ssd_byte", work.ram_bytes_per_ssd_byte},
                                                    {"ram_bytes_s", rates.ram_bytes_s},
                                                    {"ops_s", rates.ops_s},
                                                    {"ssd_bytes_s", rates.ssd_bytes_s}};
  for (const auto& [name, number] : numbers)
    if (!std::isfinite(number) || number < 0)
      return fail(ErrorCode::kInvalidArgument,
                  std::string("no limit from ") + name + " = " + std::to_string(number));
  if (work.hit_rate > 1)
    return fail(ErrorCode::kInvalidArgument, "no limit from a hit rate of " + std::to_string(work.hit_rate));
  return {};
}

Result<double> seconds(const char* what, double amount, double rate) {
  if (amount == 0) return 0.0;
  if (rate == 0)
    return fail(ErrorCode::kInvalidArgument, std::string("no limit without the rate of ") + what);
  return amount / rate;
}

}  // namespace

Result<Limit> limit_tok_s(const PassWork& work, const MachineRates& rates) {
  RETURN_IF_ERROR(check(work, rates));
  const double expert_bytes = work.distinct_experts * work.expert_bytes;
  const double ssd_bytes = expert_bytes * (1 - work.hit_rate) + work.streamed_dense_bytes;
  const double ram_bytes = work.dense_bytes + expert_bytes + work.positions * work.kv_bytes +
                           work.ram_bytes_per_ssd_byte * ssd_bytes;
  Limit limit;
  ASSIGN_OR_RETURN(limit.ram_seconds, seconds("ram", ram_bytes, rates.ram_bytes_s));
  ASSIGN_OR_RETURN(limit.cpu_seconds,
                   seconds("cpu", 2 * work.active_parameters * work.positions, rates.ops_s));
  ASSIGN_OR_RETURN(limit.ssd_seconds, seconds("ssd", ssd_bytes, rates.ssd_bytes_s));
  double longest = limit.ram_seconds;
  limit.bound = "ram";
  if (limit.cpu_seconds > longest) {
    longest = limit.cpu_seconds;
    limit.bound = "cpu";
  }
  if (limit.ssd_seconds > longest) {
    longest = limit.ssd_seconds;
    limit.bound = "ssd";
  }
  if (longest == 0) return fail(ErrorCode::kInvalidArgument, "no limit for a pass that does nothing");
  limit.tok_s = work.gained_tokens / longest;
  return limit;
}

}  // namespace mlxf::plan
