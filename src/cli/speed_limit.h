// SpeedLimit: what this machine allows a resident model, from bandwidth and arithmetic measured beside the run.
//
// Owned by the command that measures speeds; one thread. probe() is called while nothing else runs, before and after
// what is judged: the larger result counts, so that a disturbed probe cannot flatter the share. It takes up to
// plan::memory_probe_bytes() of memory for its duration.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/result.h"
#include "cli/stream_cost.h"
#include "compute/thread_pool.h"
#include "model/model.h"
#include "plan/hardware_profile.h"
#include "plan/limit.h"
#include "storage/open_storage.h"
#include "weights/routing_window.h"

namespace mlxf::cli {

// Keeps the routing of the last tokens that the engine decodes from now on; null where it streams no experts. Must
// outlive the engine's passes.
[[nodiscard]] std::unique_ptr<weights::RoutingWindow> watch_routing(engine::Engine& engine);

class SpeedLimit {
 public:
  explicit SpeedLimit(uint32_t threads);  // 0: one per processor that this process may use.

  // About half a second: reads memory with all threads for 0.3 s, and runs the int8 and f32 peak loops. Takes at most
  // `memory_max` bytes meanwhile; 0: as many as the caches make necessary.
  [[nodiscard]] Status probe(uint64_t memory_max = 0);
  // What doctor measured on this machine, instead of probe(); false when it has not.
  [[nodiscard]] bool use_profile();
  // Half a second of random reads once the disk's rate has settled (a second and a half at most), 16 at a time, by
  // the backend that streams, from the largest of the model's files into huge pages: B_ssd, the fastest of all calls.
  // Blocks of 2 MiB, smaller ones where 16 of them would take more than `memory_max`.
  [[nodiscard]] Status probe_disk(const formats::ModelManifest& manifest, storage::Backend backend,
                                  uint64_t memory_max = UINT64_MAX);

  // What the probes found, as a profile of this machine.
  [[nodiscard]] plan::HardwareProfile profile() const;

  // What decoding one token at a mean position of `depth` takes: weights and cache read once, all of the arithmetic.
  // `hit_rate`: of the experts' bytes, in the cache, which `own` counts as it is. `best` counts what the best policy
  // that knows no future would have hit in a replay of `routing` (watch_routing(); may be null) in a cache of this
  // size, the share of the experts that it holds where that is more, and `hit_rate` at least: a poor cache flatters no
  // share. Before the cache's size is changed.
  struct DecodeWork {
    plan::PassWork best, own;
  };
  [[nodiscard]] static DecodeWork decode_work(model::Model& model, double depth, double hit_rate,
                                              const weights::RoutingWindow* routing);
  // Of a run of that work that decoded `tok_s`.
  [[nodiscard]] Result<Judgement> judge(const DecodeWork& work, double tok_s,
                                        const model::Model& model) const;
  // What a prompt's chunk of `chunk` tokens takes: the arithmetic of the layers' matrices (attention and the head's one
  // row left out), and one reading of what a single token needs. A bound: chunks read more experts. Where experts are
  // streamed, `needed_bytes` of them, those that a chunk chose: chunks choose nearly all, in turn, of which no policy
  // finds more in the cache than it holds. Before the cache's size is changed.
  [[nodiscard]] static plan::PassWork prompt_work(model::Model& model, double chunk, double needed_bytes);
  [[nodiscard]] Result<plan::Limit> limit_of(const plan::PassWork& work, const model::Model& model) const;
  [[nodiscard]] double ssd_bytes_s() const { return ssd_bytes_s_; }

 private:
  [[nodiscard]] plan::MachineRates rates(const model::Model& model) const;
  compute::ThreadPool pool_;
  double ram_bytes_s_ = 0;
  double ssd_bytes_s_ = 0;
  double ssd_burst_bytes_s_ = 0;
  double int8_ops_s_ = 0;
  double f32_ops_s_ = 0;
};

}  // namespace mlxf::cli
