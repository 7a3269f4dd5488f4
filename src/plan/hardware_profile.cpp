#include "plan/hardware_profile.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "kernels/kernel_table.h"
#include "platform/file.h"
#include "platform/machine.h"
#include "platform/process.h"

namespace mlxf::plan {
namespace {

constexpr int64_t kVersion = 1;
constexpr uint64_t kProfileBytesMax = uint64_t{1} << 20;
constexpr size_t kRowsMax = 1000;

// Reads the members of one object; the first that is not as it should be is remembered.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  std::string text(const char* name) {
    const auto value = find_string(object_, name);
    if (!value) wrong(name);
    return value.value_or("");
  }
  bool flag(const char* name) {
    const auto value = find_bool(object_, name);
    if (!value) wrong(name);
    return value.value_or(false);
  }
  double rate(const char* name) {
    const auto value = find_number(object_, name);
    if (!value || !std::isfinite(*value) || *value < 0) wrong(name);
    return value.value_or(0);
  }
  uint64_t count(const char* name, int64_t max = INT64_MAX) {
    const auto value = find_int(object_, name);
    if (!value || *value < 0 || *value > max) wrong(name);
    return static_cast<uint64_t>(value.value_or(0));
  }
  ThreadRates rates(const char* name) {
    const Json* value = find_member(object_, name);
    if (value == nullptr || !value->is_object()) {
      wrong(name);
      return {};
    }
    Fields inner(*value);
    const ThreadRates rates{inner.rate("one"), inner.rate("all")};
    if (!inner.wrong_.empty()) wrong(name);
    return rates;
  }
  // Null when it is not a list of a reasonable length.
  const Json* list(const char* name) {
    const Json* value = find_member(object_, name);
    if (value != nullptr && value->is_array() && value->size() <= kRowsMax) return value;
    wrong(name);
    return nullptr;
  }
  void wrong(const char* name) {
    if (wrong_.empty()) wrong_ = name;
  }
  [[nodiscard]] Status status() const {
    if (wrong_.empty()) return {};
    return fail(ErrorCode::kCorrupt,
                "the machine's profile has no proper \"" + wrong_ + "\"; run mlx-flash doctor");
  }

 private:
  const Json& object_;
  std::string wrong_;
};

Json to_json(const ThreadRates& rates) { return {{"one", rates.one}, {"all", rates.all}}; }

Result<MachineIdentity> parse_machine(const Json& json) {
  const Json* object = find_member(json, "machine");
  Fields fields(object != nullptr ? *object : json);
  if (object == nullptr || !object->is_object()) fields.wrong("machine");
  MachineIdentity machine;
  machine.cpu = fields.text("cpu");
  machine.cores = static_cast<uint32_t>(fields.count("cores", 1 << 20));
  machine.isa = fields.text("isa");
  machine.kernel = fields.text("kernel");
  RETURN_IF_ERROR(fields.status());
  return machine;
}

Status parse_lists(const Json* peaks, const Json* ssd, HardwareProfile& profile) {
  for (const Json& entry : *peaks) {
    Fields fields(entry);
    profile.peaks.push_back({fields.text("isa"), fields.text("int8_instruction"), fields.rates("int8_ops_s"),
                             fields.rates("f32_ops_s")});
    RETURN_IF_ERROR(fields.status());
  }
  for (const Json& entry : *ssd) {
    Fields fields(entry);
    profile.ssd.push_back({fields.count("block_bytes"), static_cast<uint32_t>(fields.count("depth", 1 << 20)),
                           fields.rate("bytes_s")});
    RETURN_IF_ERROR(fields.status());
  }
  return {};
}

}  // namespace

MachineIdentity this_machine() {
  return {platform::processor_name(), platform::usable_processors(), kernels::select_kernels().isa,
          platform::system_name()};
}

Json to_json(const HardwareProfile& profile) {
  const MachineIdentity& machine = profile.machine;
  Json peaks = Json::array();
  for (const IsaPeak& peak : profile.peaks)
    peaks.push_back({{"isa", peak.isa},
                     {"int8_instruction", peak.int8_instruction},
                     {"int8_ops_s", to_json(peak.int8_ops_s)},
                     {"f32_ops_s", to_json(peak.f32_ops_s)}});
  Json ssd = Json::array();
  for (const SsdRate& rate : profile.ssd)
    ssd.push_back({{"block_bytes", rate.block_bytes}, {"depth", rate.depth}, {"bytes_s", rate.bytes_s}});
  Json out = {
      {"version", kVersion},
      {"machine",
       {{"cpu", machine.cpu}, {"cores", machine.cores}, {"isa", machine.isa}, {"kernel", machine.kernel}}},
      {"measured", profile.measured},
      {"quick", profile.quick},
      {"ram_read_bytes_s", to_json(profile.ram_read_bytes_s)},
      {"fresh_copy_bytes_s", profile.fresh_copy_bytes_s},
      {"peaks", std::move(peaks)},
      {"ssd", std::move(ssd)},
      {"ssd_path", profile.ssd_path},
      {"ssd_file_bytes", profile.ssd_file_bytes},
      {"ssd_scratch", profile.ssd_scratch},
      {"ssd_storage", profile.ssd_storage}};
  if (profile.ssd_burst_bytes_s > 0) out["ssd_burst_bytes_s"] = profile.ssd_burst_bytes_s;
  return out;
}

Result<HardwareProfile> parse_profile(std::string_view text) {
  ASSIGN_OR_RETURN(const Json json, parse_json(text, {.bytes_max = kProfileBytesMax, .depth_max = 8}));
  const auto version = find_int(json, "version");
  if (version && *version != kVersion)
    return fail(ErrorCode::kUnsupported, "the machine's profile is of version " + std::to_string(*version) +
                                             ", this program uses " + std::to_string(kVersion) +
                                             "; run mlx-flash doctor");
  HardwareProfile profile;
  Fields fields(json);
  if (!version) fields.wrong("version");
  profile.measured = fields.text("measured");
  profile.quick = fields.flag("quick");
  profile.ram_read_bytes_s = fields.rates("ram_read_bytes_s");
  profile.fresh_copy_bytes_s = fields.rate("fresh_copy_bytes_s");
  if (find_member(json, "ssd_burst_bytes_s") != nullptr)
    profile.ssd_burst_bytes_s = fields.rate("ssd_burst_bytes_s");
  profile.ssd_path = fields.text("ssd_path");
  profile.ssd_file_bytes = fields.count("ssd_file_bytes");
  profile.ssd_scratch = fields.flag("ssd_scratch");
  profile.ssd_storage = fields.text("ssd_storage");
  const Json* peaks = fields.list("peaks");
  const Json* ssd = fields.list("ssd");
  RETURN_IF_ERROR(fields.status());
  ASSIGN_OR_RETURN(profile.machine, parse_machine(json));
  RETURN_IF_ERROR(parse_lists(peaks, ssd, profile));
  return profile;
}

Result<std::string> cache_folder() {
  const char* cache = std::getenv("XDG_CACHE_HOME");
  if (cache != nullptr && cache[0] == '/') return std::string(cache) + "/mlx-flash";
  const char* home = std::getenv("HOME");
  if (home != nullptr && home[0] == '/') return std::string(home) + "/.cache/mlx-flash";
  return fail(ErrorCode::kNotFound,
              "no folder to keep the machine's profile in: set HOME or XDG_CACHE_HOME to an absolute path");
}

Result<std::string> profile_path() {
  ASSIGN_OR_RETURN(const std::string folder, cache_folder());
  return folder + "/profile.json";
}

Result<HardwareProfile> load_profile(const std::string& path, const MachineIdentity& machine) {
  ASSIGN_OR_RETURN(const std::string text, platform::read_whole_file(path, kProfileBytesMax));
  auto profile = parse_profile(text);
  if (!profile) return tl::unexpected<Error>(profile.error().within(path));
  const MachineIdentity& other = profile->machine;
  if (other != machine)
    return fail(ErrorCode::kUnavailable, path + ": was measured on another machine or system (" + other.cpu +
                                             ", " + std::to_string(other.cores) + " cores, " + other.isa +
                                             ", " + other.kernel + "; this is " + machine.cpu + ", " +
                                             std::to_string(machine.cores) + " cores, " + machine.isa + ", " +
                                             machine.kernel + "); run mlx-flash doctor");
  return profile;
}

Status save_profile(const HardwareProfile& profile, const std::string& path) {
  const std::filesystem::path folder = std::filesystem::path(path).parent_path();
  std::error_code code;
  if (!folder.empty()) std::filesystem::create_directories(folder, code);
  if (code) return fail(ErrorCode::kIo, folder.string() + ": cannot make the folder: " + code.message());
  const std::string text = dump_json(to_json(profile), 2) + "\n";
  ASSIGN_OR_RETURN(platform::NewFile file, platform::NewFile::create(path, platform::Overwrite::kReplace));
  RETURN_IF_ERROR(file.append({reinterpret_cast<const uint8_t*>(text.data()), text.size()}));
  return file.commit();
}

}  // namespace mlxf::plan
