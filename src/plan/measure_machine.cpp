// measure_machine(): the whole profile, step by step within its time.
#include <algorithm>
#include <ctime>
#include <filesystem>
#include <system_error>

#include "kernels/kernel_table.h"
#include "plan/measure.h"
#include "platform/process.h"

namespace mlxf::plan {
namespace {

constexpr uint64_t kMiB = uint64_t{1} << 20;

// How long each step may take, in seconds, and how much it writes. quick stays below 5 s, the other below 30.
struct Schedule {
  double touch;  // Memory to measure with.
  double ram;
  double copy;
  double peak;  // Of each loop; two loops and two thread counts for each instruction set.
  uint64_t scratch_bytes;
  double scratch_seconds;
  SsdOptions ssd;
};

Schedule schedule(bool quick) {
  if (!quick) return {4.0, 1.0, 1.0, 0.3, 1024 * kMiB, 5.0, {}};
  return {0.8, 0.2, 0.2, 0.05, 128 * kMiB, 0.6, {{16 << 10, 256 << 10, 1 << 20}, {1, 16}, 0.2, 1.5}};
}

std::string now_utc() {
  const std::time_t now = std::time(nullptr);
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[32];
  const size_t length = std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &utc);
  return {text, length};
}

// All threads can do what one does; only on a busy machine they measure less.
ThreadRates rates(double one, double all) { return {one, std::max(one, all)}; }

ThreadRates peak_rates(compute::ThreadPool& one, compute::ThreadPool& all, kernels::PeakFn run,
                       double seconds) {
  const double one_thread = measure_peak(one, run, seconds);
  return rates(one_thread, measure_peak(all, run, seconds));
}

Status measure_memory(compute::ThreadPool& one, compute::ThreadPool& all, const Schedule& times,
                      Measurement& out) {
  ASSIGN_OR_RETURN(const ProbeMemory memory, ProbeMemory::touch(all, 0, times.touch));
  out.huge_page_share = memory.huge_page_share();
  const double one_thread = measure_ram_read(one, memory, times.ram / 2);
  out.profile.ram_read_bytes_s = rates(one_thread, measure_ram_read(all, memory, times.ram));
  ASSIGN_OR_RETURN(out.profile.fresh_copy_bytes_s, measure_fresh_copy(all, memory, times.copy));
  return {};
}

void measure_peaks(compute::ThreadPool& one, compute::ThreadPool& all, const Schedule& times,
                   Measurement& out) {
  const kernels::KernelSet& set = kernels::available_kernels();
  for (uint32_t i = 0; i < set.count; ++i) {
    // The scalar kernels count only where there is nothing else.
    if (i > 0 && i + 1 == set.count) continue;
    const kernels::PeakLoops loops = kernels::peak_loops(set.tables[i]->isa);
    IsaPeak peak{loops.isa, loops.int8_instruction, {}, {}};
    peak.int8_ops_s = peak_rates(one, all, loops.int8, times.peak);
    peak.f32_ops_s = peak_rates(one, all, loops.f32, times.peak);
    out.profile.peaks.push_back(std::move(peak));
  }
}

Status measure_file(const std::string& path, const Schedule& times, Measurement& out) {
  ASSIGN_OR_RETURN(SsdTable table, measure_ssd(path, times.ssd));
  out.profile.ssd = std::move(table.rates);
  out.profile.ssd_burst_bytes_s = table.burst_bytes_s;
  out.profile.ssd_path = path;
  out.profile.ssd_file_bytes = table.file_bytes;
  out.profile.ssd_storage = table.storage;
  out.ssd_direct = table.direct;
  return {};
}

Status measure_scratch(const MeasureOptions& options, const Schedule& times, Measurement& out) {
  ASSIGN_OR_RETURN(const std::string folder, cache_folder());
  std::error_code code;
  std::filesystem::create_directories(folder, code);
  if (code) return fail(ErrorCode::kIo, folder + ": cannot make the folder: " + code.message());
  const std::filesystem::space_info space = std::filesystem::space(folder, code);
  if (code) return fail(ErrorCode::kIo, folder + ": cannot tell the free space: " + code.message());
  const uint64_t bytes = std::min<uint64_t>(times.scratch_bytes, space.available / 10);
  if (bytes < 64 * kMiB)
    return fail(ErrorCode::kIo,
                folder + ": too little free space for a scratch file; name a model with --file");
  if (options.progress)
    options.progress("the disk, with a scratch file of up to " + std::to_string(bytes / kMiB) + " MiB in " +
                     folder);
  ASSIGN_OR_RETURN(const ScratchFile scratch,
                   ScratchFile::write(folder + "/doctor-scratch.bin", bytes, times.scratch_seconds));
  RETURN_IF_ERROR(measure_file(scratch.path(), times, out));
  out.profile.ssd_scratch = true;
  return {};
}

}  // namespace

Result<Measurement> measure_machine(const MeasureOptions& options) {
  const Schedule times = schedule(options.quick);
  const auto tell = [&options](const std::string& what) {
    if (options.progress) options.progress(what);
  };
  Measurement out;
  out.profile.machine = this_machine();
  out.profile.measured = now_utc();
  out.profile.quick = options.quick;
  compute::ThreadPool one(1);
  compute::ThreadPool all(platform::usable_processors());
  tell("memory");
  RETURN_IF_ERROR(measure_memory(one, all, times, out));
  tell("arithmetic");
  measure_peaks(one, all, times, out);
  if (!options.file.empty()) {
    tell("the disk, with " + options.file);
    RETURN_IF_ERROR(measure_file(options.file, times, out));
  } else if (const Status status = measure_scratch(options, times, out); !status) {
    out.ssd_failure = status.error().message;
  }
  return out;
}

}  // namespace mlxf::plan
