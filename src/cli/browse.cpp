// browse: which well-known models this machine can run, and how fast that may be expected to be.
//
// Nothing is asked of any hub. Each model is laid out as a file with its exact dimensions and holes for weights, and
// that goes the way that `plan` goes: sizes, memory plan, a short measurement of its arithmetic, forecast.
#include <sys/stat.h>
#include <unistd.h>

#include <cctype>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/models.h"
#include "cli/planner.h"
#include "convert/known_models.h"
#include "memory/budget.h"
#include "model/families/families.h"
#include "plan/measure.h"
#include "plan/model_work.h"
#include "platform/process.h"

namespace mlxf::cli {
namespace {

namespace fs = std::filesystem;

// Enough layers to have some of every kind, and few enough to look at a dozen models in some seconds.
constexpr uint32_t kMeasuredLayers = 12;
constexpr uint64_t kScratchBytes = uint64_t{128} << 20;
constexpr double kScratchSeconds = 0.6;

struct Flags {
  ModelFlags model;  // Threads and the memory budget.
  std::string filter;
  uint32_t context = 2048;
  bool json = false;
};

enum class Memory : uint8_t { kWhole, kStreams, kTooBig };

struct Row {
  const convert::KnownModel* model = nullptr;
  bool here = false;  // In a cache already.
  uint64_t file_bytes = 0;
  uint64_t parameters = 0, active = 0;
  uint32_t layers = 0;
  uint64_t floor_bytes = 0, whole_bytes = 0;
  Memory memory = Memory::kWhole;
  bool disk_too_small = false;
  std::optional<plan::Forecast> forecast;  // Of what memory has room for.
};

struct Machine {
  plan::HardwareProfile profile;
  std::string rates_from;
  std::string folder;  // Where pulled models go, or the nearest folder above that is there,
  uint64_t disk_free = 0;
  uint64_t budget = 0;  // 0: none.
};

const char* fit_of(const Row& row) {
  if (row.disk_too_small) return "too big for the disk";
  switch (row.memory) {
    case Memory::kWhole:
      return "whole";
    case Memory::kStreams:
      return "streams";
    case Memory::kTooBig:
      return "too big for the memory budget";
  }
  return "";
}

std::string lower(std::string_view text) {
  std::string out(text);
  for (char& c : out) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return out;
}

bool matches(const convert::KnownModel& model, const std::string& filter) {
  const std::string wanted = lower(filter);
  return lower(model.title).find(wanted) != std::string::npos ||
         lower(model.name()).find(wanted) != std::string::npos || model.shape == wanted;
}

bool same_device(const std::string& a, const std::string& b) {
  struct stat first {};
  struct stat second {};
  return ::stat(a.c_str(), &first) == 0 && ::stat(b.c_str(), &second) == 0 && first.st_dev == second.st_dev;
}

// The disk that models would be pulled to, where the profile is of another one. One that cannot be measured leaves
// models that would be streamed without an expectation.
void measure_disk(Machine& machine) {
  plan::HardwareProfile& profile = machine.profile;
  if (!profile.ssd.empty() && same_device(profile.ssd_path, machine.folder)) return;
  profile.ssd.clear();
  const auto scratch = plan::ScratchFile::write(
      machine.folder + "/mlx-flash-browse-" + std::to_string(::getpid()), kScratchBytes, kScratchSeconds);
  plan::SsdOptions quick;
  quick.blocks = {16 << 10, 256 << 10, 1 << 20};
  quick.seconds_each = 0.15;
  auto table = scratch ? plan::measure_ssd(scratch->path(), quick)
                       : Result<plan::SsdTable>(tl::unexpected<Error>(scratch.error()));
  if (!table) {
    std::fprintf(stderr, "the disk of %s could not be measured: %s\n", machine.folder.c_str(),
                 table.error().message.c_str());
    return;
  }
  profile.ssd = std::move(table->rates);
  profile.ssd_burst_bytes_s = table->burst_bytes_s;
  machine.rates_from += ", that disk measured just now";
}

Result<Machine> this_machine(const Flags& flags) {
  Machine machine;
  ASSIGN_OR_RETURN(machine.budget, flags.model.budget_bytes());
  ASSIGN_OR_RETURN(const std::string cache, plan::cache_folder());
  if (auto stored = stored_profile()) {
    machine.profile = std::move(*stored);
    machine.rates_from = "the profile of " + machine.profile.measured;
  } else {
    std::fprintf(
        stderr,
        "no stored profile of this machine: measuring for some seconds (mlx-flash doctor stores one)\n");
    ASSIGN_OR_RETURN(plan::Measurement measured, plan::measure_machine({.file = "", .quick = true}));
    machine.profile = std::move(measured.profile);
    machine.profile.ssd_path = cache;  // A scratch file was there.
    machine.rates_from = "a short measurement just now";
  }
  fs::path folder = hub::own_models_folder(cache);
  std::error_code error;
  while (!fs::exists(folder, error) && folder.has_relative_path()) folder = folder.parent_path();
  machine.folder = folder.string();
  const fs::space_info space = fs::space(folder, error);
  machine.disk_free = error ? 0 : space.available;
  measure_disk(machine);
  return machine;
}

// A file that describes the model, while it is looked at.
class Outline {
 public:
  static Result<Outline> write(const convert::KnownModel& model) {
    std::error_code error;
    const fs::path folder = fs::temp_directory_path(error);
    if (error) return fail(ErrorCode::kIo, "there is no folder for temporary files: " + error.message());
    convert::SynthOptions options;
    ASSIGN_OR_RETURN(options.shape, convert::find_shape(model.shape));
    options.format = model.format;
    options.outline = true;
    options.out =
        (folder / ("mlx-flash-" + std::to_string(::getpid()) + "-" + std::string(model.shape) + ".gguf"))
            .string();
    if (const Status made = convert::synthesise(options, {}); !made)
      return tl::unexpected<Error>(made.error().within("laying out " + std::string(model.title)));
    return Outline(options.out);
  }
  Outline(Outline&& other) noexcept : path_(std::exchange(other.path_, {})) {}
  Outline& operator=(Outline&&) = delete;
  ~Outline() {
    std::error_code error;
    if (!path_.empty()) fs::remove(path_, error);
  }
  [[nodiscard]] const std::string& path() const { return path_; }

 private:
  explicit Outline(std::string path) : path_(std::move(path)) {}
  std::string path_;
};

Result<Row> row_of(const convert::KnownModel& model, const Flags& flags, const Machine& machine, bool here) {
  Row row;
  row.model = &model;
  row.here = here;
  uint64_t tokenizer_bytes = 0;
  ASSIGN_OR_RETURN(const Outline outline, Outline::write(model));
  {
    ASSIGN_OR_RETURN(const formats::ModelManifest manifest, formats::open_model(outline.path()));
    row.file_bytes = manifest.file_bytes.front();
    for (const formats::TensorEntry& tensor : manifest.tensors) {
      uint64_t elements = 1;
      for (const uint64_t extent : tensor.shape) elements *= extent;
      row.parameters += elements;
    }
    ASSIGN_OR_RETURN(const model::ModelSpec spec, model::make_spec(manifest));
    tokenizer_bytes = uint64_t{spec.vocab} * kTokenizerBytesPerToken;  // It is not there to be measured.
  }
  PlannerOptions options(flags.model);
  options.budget_bytes = machine.budget;
  options.context_tokens = flags.context;
  options.depth = flags.context / 2.0;
  options.prompt_tokens = 0;
  options.profile = &machine.profile;
  options.rates_from = machine.rates_from;
  options.decode_layers = kMeasuredLayers;
  options.held_bytes = platform::own_memory_bytes() + tokenizer_bytes;
  ASSIGN_OR_RETURN(const auto planner, Planner::make(outline.path(), options));
  const plan::ActiveParameters active = plan::active_parameters(planner->spec());
  row.active = active.layers + active.head;
  row.layers = static_cast<uint32_t>(planner->spec().layers.size());
  row.floor_bytes = planner->floor_budget();
  row.whole_bytes = planner->resident_budget();
  auto forecast = plan::forecast(planner->inputs(), machine.budget);
  if (forecast) row.forecast = *forecast;
  // What cannot be said without a disk's rates streams.
  if (forecast ? forecast->memory.residency.streams() : forecast.error().code != ErrorCode::kOutOfBudget)
    row.memory = Memory::kStreams;
  else if (!forecast)
    row.memory = Memory::kTooBig;
  row.disk_too_small = !row.here && row.file_bytes > machine.disk_free;
  return row;
}

// One that could not be looked at, which says nothing of the others.
struct LeftOut {
  const convert::KnownModel* model = nullptr;
  Error why;
};

Json to_json(const Row& row) {
  Json out = {{"title", row.model->title},
              {"name", row.model->name()},
              {"repository", row.model->repository},
              {"quantisation", row.model->format == convert::SynthFormat::kMxfp4 ? "MXFP4" : "Q4_K_M"},
              {"shape", row.model->shape},
              {"parameters", row.parameters},
              {"active_parameters", row.active},
              {"layers", row.layers},
              {"file_bytes", row.file_bytes},
              {"fit", fit_of(row)},
              {"cached", row.here},
              {"floor_bytes", row.floor_bytes},
              {"all_resident_bytes", row.whole_bytes},
              {"expected_decode_tok_s", Json()},
              {"pull", "mlx-flash pull " + row.model->name()}};
  if (row.forecast) {
    out["expected_decode_tok_s"] = row.forecast->decode_tok_s;
    out["decode_bound"] = row.forecast->decode_bound;
    out["hit_rate"] = row.forecast->hit_rate;
    out["read_bytes_per_token"] = row.forecast->read_bytes_per_token;
  }
  return out;
}

std::string count_text(uint64_t parameters) {
  char text[32];
  std::snprintf(text, sizeof(text), parameters < 10'000'000'000 ? "%.1fB" : "%.0fB",
                static_cast<double>(parameters) / 1e9);
  return text;
}

void print(const std::vector<Row>& rows, const Flags& flags, const Machine& machine) {
  std::printf("%-20s  %6s  %6s  %-6s  %9s  %-8s  %14s  %s\n", "MODEL", "PARAM.", "ACTIVE", "FORMAT", "FILE",
              "MEMORY", "EXPECTED", "TO GET IT");
  for (const Row& row : rows) {
    std::string speed = "-";
    if (row.forecast) {
      char text[32];
      std::snprintf(text, sizeof(text), "%.3g tok/s", row.forecast->decode_tok_s);
      speed = text;
    }
    const char* const stays = row.memory == Memory::kTooBig    ? "too big"
                              : row.memory == Memory::kStreams ? "streams"
                                                               : "whole";
    const std::string get = row.here             ? "here: mlx-flash chat -m " + row.model->name()
                            : row.disk_too_small ? "too big for the disk"
                                                 : "mlx-flash pull " + row.model->name();
    std::printf("%-20s  %6s  %6s  %-6s  %6.1f GB  %-8s  %14s  %s\n", std::string(row.model->title).c_str(),
                count_text(row.parameters).c_str(), count_text(row.active).c_str(),
                row.model->format == convert::SynthFormat::kMxfp4 ? "MXFP4" : "Q4_K_M",
                static_cast<double>(row.file_bytes) / 1e9, stays, speed.c_str(), get.c_str());
  }
  const std::string budget =
      machine.budget == 0 ? "no memory budget" : "a memory budget of " + memory::size_text(machine.budget);
  std::printf(
      "\nexpected by plan under %s with %u tokens of context, from %s; %.0f GB are free in %s.\n"
      "plan -m MODEL tells more of one that is here.\n",
      budget.c_str(), flags.context, machine.rates_from.c_str(), static_cast<double>(machine.disk_free) / 1e9,
      machine.folder.c_str());
}

Status run(const Flags& flags) {
  std::vector<const convert::KnownModel*> wanted;
  for (const convert::KnownModel& model : convert::known_models())
    if (matches(model, flags.filter)) wanted.push_back(&model);
  if (wanted.empty())
    return fail(ErrorCode::kInvalidArgument,
                "no known model matches '" + flags.filter + "'; mlx-flash browse without a filter shows all");
  watch_termination();  // Files that are looked at are removed first.
  ASSIGN_OR_RETURN(const Machine machine, this_machine(flags));
  const auto cached = cached_models();
  std::vector<Row> rows;
  rows.reserve(wanted.size());
  std::vector<LeftOut> left_out;
  const auto progress = progress_line("looking at models");
  for (const convert::KnownModel* model : wanted) {
    if (interrupted()) return fail(ErrorCode::kCancelled, "interrupted");
    if (progress) progress(rows.size() + left_out.size(), wanted.size());
    const bool here = cached && hub::find_model(*cached, model->name()).has_value();
    Result<Row> row = row_of(*model, flags, machine, here);
    if (row) {
      rows.push_back(std::move(*row));
    } else {
      left_out.push_back({model, std::move(row).error()});
    }
  }
  if (progress) progress(wanted.size(), wanted.size());
  if (rows.empty()) return tl::unexpected<Error>(left_out.front().why);
  for (const auto& [model, why] : left_out)
    std::fprintf(stderr, "%s is left out: %s\n", std::string(model->title).c_str(), why.message.c_str());
  if (flags.json) {
    Json out = {{"budget_bytes", machine.budget},
                {"context_tokens", flags.context},
                {"disk_free_bytes", machine.disk_free},
                {"rates_from", machine.rates_from},
                {"models", Json::array()},
                {"left_out", Json::array()}};
    for (const Row& row : rows) out["models"].push_back(to_json(row));
    for (const auto& [model, why] : left_out)
      out["left_out"].push_back({{"title", model->title}, {"name", model->name()}, {"why", why.message}});
    std::printf("%s\n", dump_json(out, 2).c_str());
  } else {
    print(rows, flags, machine);
  }
  return {};
}

}  // namespace

void add_browse(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command = app.add_subcommand(
      "browse", "Show which well-known models fit this machine, and how fast they may be expected to be");
  command->add_option("FILTER", flags->filter, "Only models with this in their name");
  flags->model.add_threads_to(*command);
  flags->model.add_budget_to(*command);
  command->add_option("-c,--context", flags->context, "Tokens of prompt and answer to keep room for")
      ->capture_default_str()
      ->check(CLI::Range(1, 1 << 24));
  command->add_flag("--json", flags->json, "For machines");
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
