#include "cli/speed_limit.h"

#include <algorithm>

#include "kernels/kernel_table.h"
#include "kernels/peak.h"
#include "model/weight_stream.h"
#include "plan/hardware_profile.h"
#include "plan/measure.h"
#include "plan/model_work.h"
#include "platform/process.h"
#include "storage/probe.h"
#include "weights/replay.h"

namespace mlxf::cli {
namespace {

constexpr uint64_t kBlockStep = uint64_t{64} << 10;
constexpr double kBurstSeconds = 0.04;
// Enough for hit rates within a point, and replayed by every policy within seconds for the largest mixtures.
constexpr uint32_t kWatchedTokens = 256;

double matrix_parameters(const model::Model& model) {
  const plan::ActiveParameters active = plan::active_parameters(model.spec());
  return static_cast<double>(active.layers + active.head);
}

plan::PassWork weights_once(const model::Model& model) {
  plan::PassWork work;
  work.expert_bytes = static_cast<double>(model.active_expert_bytes());
  work.dense_bytes = static_cast<double>(model.active_bytes()) - work.expert_bytes;
  return work;
}

// What the best cache of the model's size would have hit.
double best_hit_rate(const weights::RecordCache& cache, const weights::RoutingWindow* routing) {
  const double held = static_cast<double>(cache.bytes()) /
                      static_cast<double>(weights::RecordCache::whole_bytes(cache.records()));
  double best = std::min(1.0, held);
  if (routing == nullptr) return best;
  const weights::RoutingTrace trace = routing->trace();
  for (const weights::Policy policy : weights::kPolicies)
    best = std::max(best, weights::steady_hit_rate(trace, policy, std::min(1.0, held)));
  return best;
}

}  // namespace

std::unique_ptr<weights::RoutingWindow> watch_routing(engine::Engine& engine) {
  model::Model& model = engine.model();
  if (model.expert_cache() == nullptr) return nullptr;
  auto shape = model::trace_shape(engine.manifest(), model.spec());
  if (!shape) return nullptr;  // Of a kind that no replay knows.
  auto window = std::make_unique<weights::RoutingWindow>(std::move(*shape), kWatchedTokens);
  model.observe_routing([window = window.get(), places = model::trace_layers(model.spec())](
                            uint32_t layer, uint32_t row, std::span<const int32_t> experts) {
    window->observe(places[layer], row, experts);
  });
  return window;
}

SpeedLimit::SpeedLimit(uint32_t threads) : pool_(threads != 0 ? threads : platform::usable_processors()) {}

Status SpeedLimit::probe(uint64_t memory_max) {
  const uint64_t wanted = plan::memory_probe_bytes();
  ASSIGN_OR_RETURN(const plan::ProbeMemory memory,
                   plan::ProbeMemory::touch(pool_, memory_max == 0 ? wanted : std::min(wanted, memory_max)));
  ram_bytes_s_ = std::max(ram_bytes_s_, plan::measure_ram_read(pool_, memory, 0.3));
  const kernels::PeakLoops loops = kernels::peak_loops(kernels::select_kernels().isa);
  int8_ops_s_ = std::max(int8_ops_s_, plan::measure_peak(pool_, loops.int8, 0.05));
  f32_ops_s_ = std::max(f32_ops_s_, plan::measure_peak(pool_, loops.f32, 0.05));
  return {};
}

bool SpeedLimit::use_profile() {
  const plan::MachineIdentity machine = plan::this_machine();
  const auto path = plan::profile_path();
  if (!path) return false;
  const auto profile = plan::load_profile(*path, machine);
  if (!profile || profile->ram_read_bytes_s.all <= 0.0) return false;
  for (const plan::IsaPeak& peak : profile->peaks)
    if (peak.isa == machine.isa) {
      ram_bytes_s_ = profile->ram_read_bytes_s.all;
      int8_ops_s_ = peak.int8_ops_s.all;
      f32_ops_s_ = peak.f32_ops_s.all;
      return true;
    }
  return false;
}

Status SpeedLimit::probe_disk(const formats::ModelManifest& manifest, storage::Backend backend,
                              uint64_t memory_max) {
  storage::ProbeOptions options;
  options.backend = backend;
  const uint64_t most = memory_max / options.depth / kBlockStep * kBlockStep;
  options.block_bytes = std::clamp(most, kBlockStep, options.block_bytes);
  const auto& bytes = manifest.file_bytes;
  const auto largest = std::max_element(bytes.begin(), bytes.end()) - bytes.begin();
  const std::string& file = manifest.files[static_cast<size_t>(largest)];
  ASSIGN_OR_RETURN(const storage::ProbeResult result, storage::probe(file, options));
  ssd_bytes_s_ = std::max(ssd_bytes_s_, result.bytes_per_second());
  // Where there is no room for them, or the file is too short, the plan does without.
  if (memory_max < plan::kBurstBlocks * plan::kBurstBlockBytes) return {};
  if (const auto burst = plan::measure_ssd_bursts(file, kBurstSeconds))
    ssd_burst_bytes_s_ = std::max(ssd_burst_bytes_s_, *burst);
  return {};
}

plan::HardwareProfile SpeedLimit::profile() const {
  plan::HardwareProfile profile;
  profile.machine = plan::this_machine();
  profile.ram_read_bytes_s.all = ram_bytes_s_;
  plan::IsaPeak peak;
  peak.isa = profile.machine.isa;
  peak.int8_ops_s.all = int8_ops_s_;
  peak.f32_ops_s.all = f32_ops_s_;
  profile.peaks.push_back(peak);
  const storage::ProbeOptions probed;
  if (ssd_bytes_s_ > 0) profile.ssd.push_back({probed.block_bytes, probed.depth, ssd_bytes_s_});
  profile.ssd_burst_bytes_s = ssd_burst_bytes_s_;
  return profile;
}

plan::MachineRates SpeedLimit::rates(const model::Model& model) const {
  // Matrices of two bytes a parameter and more are multiplied in floats, all others in int8 (unless --activations f32
  // says otherwise, which is judged by the int8 peak all the same). The widest quantised format has 1.13 bytes.
  const bool floats = static_cast<double>(model.active_bytes()) > 1.5 * matrix_parameters(model);
  return {
      .ram_bytes_s = ram_bytes_s_, .ops_s = floats ? f32_ops_s_ : int8_ops_s_, .ssd_bytes_s = ssd_bytes_s_};
}

SpeedLimit::DecodeWork SpeedLimit::decode_work(model::Model& model, double depth, double hit_rate,
                                               const weights::RoutingWindow* routing) {
  DecodeWork work;
  work.own = weights_once(model);
  work.own.kv_bytes = plan::kv_bytes_read(model.spec(), model.make_sequence(1)->element(), depth);
  work.own.active_parameters = matrix_parameters(model);
  work.best = work.own;
  const weights::RecordCache* cache = model.weight_cache();
  if (cache == nullptr) return work;
  for (plan::PassWork* w : {&work.own, &work.best}) {
    w->streamed_dense_bytes = static_cast<double>(model.streamed_layer_bytes());
    w->dense_bytes -= w->streamed_dense_bytes;
  }
  work.own.hit_rate = std::min(1.0, hit_rate);
  work.best.hit_rate = std::max(work.own.hit_rate, best_hit_rate(*cache, routing));
  return work;
}

Result<Judgement> SpeedLimit::judge(const DecodeWork& work, double tok_s, const model::Model& model) const {
  Judgement judgement;
  judgement.tok_s = tok_s;
  judgement.probe_bytes_s = ssd_bytes_s_;
  judgement.best_hit_rate = work.best.hit_rate;
  ASSIGN_OR_RETURN(judgement.limit, plan::limit_tok_s(work.best, rates(model)));
  ASSIGN_OR_RETURN(judgement.pipeline, plan::limit_tok_s(work.own, rates(model)));
  return judgement;
}

plan::PassWork SpeedLimit::prompt_work(model::Model& model, double chunk, double needed_bytes) {
  plan::PassWork work = weights_once(model);
  work.active_parameters = static_cast<double>(plan::active_parameters(model.spec()).layers);
  work.positions = work.gained_tokens = chunk;
  work.streamed_dense_bytes = static_cast<double>(model.streamed_layer_bytes());
  work.dense_bytes -= work.streamed_dense_bytes;
  if (weights::RecordCache* experts = model.expert_cache()) {
    work.expert_bytes = needed_bytes;
    work.hit_rate =
        needed_bytes > 0 ? std::min(1.0, static_cast<double>(experts->bytes()) / needed_bytes) : 1;
  }
  return work;
}

Result<plan::Limit> SpeedLimit::limit_of(const plan::PassWork& work, const model::Model& model) const {
  return plan::limit_tok_s(work, rates(model));
}

}  // namespace mlxf::cli
