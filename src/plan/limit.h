// limit_tok_s: the tokens per second that a machine's memory, processors and disk allow, whatever the program.
//
//     T_ram = (D + U E + n C + c ((1-h) U E + R)) / B_ram     T_cpu = 2 A n / P     T_ssd = (U E (1-h) + R) / B_ssd
//     limit = a / max(T_ram, T_cpu, T_ssd)                 for a pass over n positions that gains a tokens
//
// Pure; any thread. Amounts are bytes, operations and seconds. A measured speed divided by the limit is the share
// reached.
#pragma once

#include "base/result.h"

namespace mlxf::plan {

// What one pass over the model does.
struct PassWork {
  double dense_bytes = 0;             // D: active weights outside the routed experts; read once a pass.
  double expert_bytes = 0;            // E: routed experts of one position.
  double kv_bytes = 0;                // C: cached keys and values of one position.
  double hit_rate = 1;                // h: byte share of the experts found in RAM.
  double streamed_dense_bytes = 0;    // R: dense weights that are not resident.
  double active_parameters = 0;       // A: per position.
  double positions = 1;               // n
  double distinct_experts = 1;        // U(n): distinct experts of n positions / those of one.
  double gained_tokens = 1;           // a(n)
  double ram_bytes_per_ssd_byte = 1;  // c: 1 for direct reads, 3 through the page cache.
};

struct MachineRates {
  double ram_bytes_s = 0;  // B_ram
  double ops_s = 0;        // P
  double ssd_bytes_s = 0;  // B_ssd
};

struct Limit {
  double ram_seconds = 0;
  double cpu_seconds = 0;
  double ssd_seconds = 0;
  double tok_s = 0;
  const char* bound = "";  // "ram", "cpu" or "ssd": what takes longest.
};

// kInvalidArgument for a number that is negative or not finite, a hit rate above 1, work on something whose rate is 0,
// and for no work at all; a rate may be 0 where nothing needs it.
[[nodiscard]] Result<Limit> limit_tok_s(const PassWork& work, const MachineRates& rates);

}  // namespace mlxf::plan
