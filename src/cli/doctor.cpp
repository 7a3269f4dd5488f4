// doctor: measures what this machine can do, says what holds it back, and keeps the profile for later runs.
#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "base/json.h"
#include "cli/commands.h"
#include "plan/measure.h"
#include "plan/warnings.h"
#include "platform/machine.h"
#include "platform/memory_info.h"

namespace mlxf::cli {
namespace {

struct Flags {
  std::string file;
  bool quick = false;
  bool json = false;
};

struct Report {
  plan::Measurement measured;
  platform::MemoryReading memory;
  std::string huge_page_mode;
  double load_average = 0;  // Before measuring.
  std::string profile_path;
  bool stored = false;
  std::string not_stored;  // Why.
  std::vector<std::string> warnings;
};

// A quick profile never replaces a full one of the same machine.
void store(Report& report, const std::optional<plan::HardwareProfile>& earlier) {
  if (report.profile_path.empty()) return;
  if (report.measured.profile.quick && earlier && !earlier->quick) {
    report.not_stored = "the full profile of " + earlier->measured + " stays";
    return;
  }
  const Status saved = plan::save_profile(report.measured.profile, report.profile_path);
  report.stored = saved.has_value();
  if (!saved) report.not_stored = saved.error().message;
}

Json to_json(const Report& report) {
  Json out = plan::to_json(report.measured.profile);
  out["memory"] = {{"total_bytes", report.memory.total_bytes},
                   {"available_bytes", report.memory.available_bytes}};
  if (report.memory.limit_bytes != platform::kNoMemoryLimit) {
    out["memory"]["limit_bytes"] = report.memory.limit_bytes;
    out["memory"]["limit_room_bytes"] = report.memory.limit_room_bytes;
  }
  out["huge_pages"] = {{"mode", report.huge_page_mode}, {"share", report.measured.huge_page_share}};
  out["ssd_direct"] = report.measured.ssd_direct;
  out["load_average"] = report.load_average;
  out["profile"] = report.profile_path;
  out["stored"] = report.stored;
  out["warnings"] = report.warnings;
  return out;
}

double giga(double value) { return value / 1e9; }
double gibi(uint64_t bytes) { return static_cast<double>(bytes) / (1 << 30); }

void print_disk(const plan::HardwareProfile& profile) {
  if (profile.ssd.empty()) return;
  std::printf("disk        %s\n", profile.ssd_storage.c_str());
  std::printf("            %s of %.2f GiB%s\n",
              profile.ssd_scratch ? "a scratch file" : profile.ssd_path.c_str(), gibi(profile.ssd_file_bytes),
              profile.ssd_scratch ? ", removed again" : "");
  std::map<uint64_t, std::map<uint32_t, double>> table;
  std::map<uint32_t, bool> depths;
  for (const plan::SsdRate& rate : profile.ssd) {
    table[rate.block_bytes][rate.depth] = rate.bytes_s;
    depths[rate.depth] = true;
  }
  std::printf("            random reads, GB/s:");
  for (const auto& [depth, present] : depths) std::printf("  depth %-3u", depth);
  std::printf("\n");
  for (const auto& [block, row] : table) {
    std::printf("            %10llu KiB     ", static_cast<unsigned long long>(block >> 10));
    for (const auto& [depth, present] : depths)
      row.count(depth) != 0 ? std::printf("  %-9.2f", giga(row.at(depth))) : std::printf("  %-9s", "-");
    std::printf("\n");
  }
  if (profile.ssd_burst_bytes_s > 0)
    std::printf("            %.2f GB/s in bursts of %llu MiB with pauses, as decoding reads\n",
                giga(profile.ssd_burst_bytes_s),
                static_cast<unsigned long long>((plan::kBurstBlocks * plan::kBurstBlockBytes) >> 20));
}

void print(const Report& report) {
  const plan::HardwareProfile& profile = report.measured.profile;
  std::printf("machine     %s, %u cores, %s kernels\n            %s\n", profile.machine.cpu.c_str(),
              profile.machine.cores, profile.machine.isa.c_str(), profile.machine.kernel.c_str());
  std::printf("memory      %.1f of %.1f GiB available", gibi(report.memory.available_bytes),
              gibi(report.memory.total_bytes));
  if (report.memory.limit_bytes != platform::kNoMemoryLimit)
    std::printf("; a control group allows %.1f GiB, %.1f left", gibi(report.memory.limit_bytes),
                gibi(report.memory.limit_room_bytes));
  std::printf("\nhuge pages  %s, %.0f %% of the memory asked for\n",
              report.huge_page_mode.empty() ? "unknown" : report.huge_page_mode.c_str(),
              report.measured.huge_page_share * 100);
  std::printf("reading     %.1f GB/s with 1 thread, %.1f with %u\n", giga(profile.ram_read_bytes_s.one),
              giga(profile.ram_read_bytes_s.all), profile.machine.cores);
  std::printf("copying     %.1f GB/s into fresh huge pages\n", giga(profile.fresh_copy_bytes_s));
  for (const plan::IsaPeak& peak : profile.peaks)
    std::printf("%-10s  int8 %.0f Gop/s with 1 thread, %.0f with %u (%s); f32 %.0f and %.0f\n",
                peak.isa.c_str(), giga(peak.int8_ops_s.one), giga(peak.int8_ops_s.all), profile.machine.cores,
                peak.int8_instruction.c_str(), giga(peak.f32_ops_s.one), giga(peak.f32_ops_s.all));
  print_disk(profile);
  if (report.stored) {
    std::printf("profile     %s\n", report.profile_path.c_str());
  } else {
    std::printf("profile     %s: not written: %s\n", report.profile_path.c_str(), report.not_stored.c_str());
  }
  for (const std::string& warning : report.warnings) std::printf("warning     %s\n", warning.c_str());
}

Status run(const Flags& flags) {
  plan::MeasureOptions options;
  options.file = flags.file;
  options.quick = flags.quick;
  options.progress = [](const std::string& what) { std::fprintf(stderr, "measuring %s\n", what.c_str()); };
  Report report;
  ASSIGN_OR_RETURN(platform::MemorySource memory, platform::MemorySource::open());
  ASSIGN_OR_RETURN(report.memory, memory.read());
  report.load_average = platform::load_average();
  report.huge_page_mode = platform::huge_page_mode();
  std::optional<plan::HardwareProfile> earlier;
  if (const auto path = plan::profile_path()) {
    report.profile_path = *path;
    if (auto loaded = plan::load_profile(*path, plan::this_machine())) earlier = *std::move(loaded);
  } else {
    report.not_stored = path.error().message;
  }
  ASSIGN_OR_RETURN(report.measured, plan::measure_machine(options));
  store(report, earlier);
  report.warnings =
      plan::warnings({report.measured, report.memory, report.huge_page_mode, report.load_average, earlier});
  if (flags.json) {
    std::printf("%s\n", dump_json(to_json(report), 2).c_str());
  } else {
    print(report);
  }
  return {};
}

}  // namespace

void add_doctor(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand("doctor", "Measure this machine and say what slows it down");
  command->add_option(
      "--file", flags->file,
      "Measure the disk by reading this file, e.g. a model (default: a scratch file, removed again)");
  command->add_flag("--quick", flags->quick, "At most 5 seconds instead of 30, and less exact");
  command->add_flag("--json", flags->json, "For machines");
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
