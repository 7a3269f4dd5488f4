// pack: a mixture of experts rewritten so that each expert is read in one piece; --verify checks such a folder.
#include <cstdio>
#include <memory>

#include "base/json.h"
#include "cli/models.h"
#include "convert/pack.h"

namespace mlxf::cli {
namespace {

struct Flags {
  std::string model, out, verify;
  bool json = false;
};

double megabytes(uint64_t bytes) { return static_cast<double>(bytes) / 1e6; }

Status verify(const Flags& flags) {
  ASSIGN_OR_RETURN(const convert::VerifyReport report,
                   convert::verify_pack(flags.verify, progress_line("verifying")));
  if (flags.json) {
    std::printf("%s\n", dump_json(Json{{"extents", report.extents}, {"bytes", report.bytes}}).c_str());
  } else {
    std::printf("%s: %llu extents, %.1f MB, all as they were written\n", flags.verify.c_str(),
                static_cast<unsigned long long>(report.extents), megabytes(report.bytes));
  }
  return {};
}

Status pack(const Flags& flags) {
  ASSIGN_OR_RETURN(const NamedModel found, named_model(flags.model));
  ASSIGN_OR_RETURN(const formats::ModelManifest manifest, formats::open_model(found.path));
  ASSIGN_OR_RETURN(const convert::PackReport report,
                   convert::pack(manifest, flags.out, progress_line("packing")));
  const convert::PackPlan& plan = report.plan;
  const double experts = static_cast<double>(plan.experts);
  const double reads = static_cast<double>(plan.reads_before) / experts;
  const double before = static_cast<double>(plan.read_bytes_before) / experts;
  const double after = static_cast<double>(plan.read_bytes_after) / experts;
  if (flags.json) {
    const Json line = {{"experts", plan.experts},
                       {"files", plan.files.size()},
                       {"files_kept", report.files_kept},
                       {"bytes", plan.bytes},
                       {"written_bytes", report.written_bytes},
                       {"reads_per_expert_before", reads},
                       {"read_bytes_per_expert_before", before},
                       {"reads_per_expert", 1},
                       {"read_bytes_per_expert", after}};
    std::printf("%s\n", dump_json(line).c_str());
    return {};
  }
  std::printf("%s: %llu experts, %.1f MB in %zu files", flags.out.c_str(),
              static_cast<unsigned long long>(plan.experts), megabytes(plan.bytes), plan.files.size());
  if (report.files_kept != 0)
    std::printf(" (%llu of them from an earlier run)", static_cast<unsigned long long>(report.files_kept));
  std::printf("\nto read an expert takes 1 request instead of %.1f, and %.1f KiB instead of %.1f\n", reads,
              after / 1024, before / 1024);
  return {};
}

}  // namespace

void add_pack(CLI::App& app, Action& action) {
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      app.add_subcommand("pack", "Rewrite a mixture of experts so that each expert is read in one piece");
  CLI::Option* model = command->add_option(
      "-m,--model", flags->model, "Folder with config.json and safetensors, or the name of a cached model");
  CLI::Option* out = command->add_option("-o,--output", flags->out, "Folder to make")->needs(model);
  model->needs(out);
  CLI::Option* check =
      command->add_option("--verify", flags->verify, "Instead: check a packed folder against its checksums");
  check->excludes(model);
  command->add_flag("--json", flags->json, "For machines");
  command->callback([=, &action] {
    const bool given = model->count() != 0 || check->count() != 0;
    action = [flags, given]() -> Status {
      if (!given) return fail(ErrorCode::kInvalidArgument, "pack needs -m MODEL -o OUT, or --verify FOLDER");
      return flags->verify.empty() ? pack(*flags) : verify(*flags);
    };
  });
}

}  // namespace mlxf::cli
