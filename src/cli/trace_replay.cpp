// trace replay: what caches of several sizes and policies would have hit on a recorded trace, beside the optimum.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <memory>

#include "base/json.h"
#include "cli/commands.h"
#include "cli/replay_plot.h"
#include "memory/budget.h"
#include "platform/file.h"
#include "weights/replay.h"

namespace mlxf::cli {
namespace {

struct Flags {
  std::string path, svg;
  std::vector<std::string> caches = {"5%", "10%", "25%", "50%", "75%"};
  std::vector<std::string> policies;
  bool force = false;
  bool json = false;
};

struct Row {
  double share = 0;  // Of all experts.
  uint64_t slots = 0, bytes = 0;
  std::vector<double> rates;  // By policy.
  double optimum = 0;
  size_t best = 0;  // Of the policies.
};

// "25%", a number of slots, or a size, as a share of the experts.
Result<double> parse_cache(const std::string& text, uint64_t records, uint64_t whole_bytes) {
  const auto wrong = [&](const std::string& why) {
    return fail(ErrorCode::kInvalidArgument, "--cache " + text + ": " + why);
  };
  double share = 0;
  if (!text.empty() && std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; })) {
    share = std::strtod(text.c_str(), nullptr) / static_cast<double>(records);
  } else {
    auto request = memory::parse_budget(text);
    if (!request || request->kind == memory::BudgetRequest::Kind::kAuto)
      return wrong("give a share (25%), a number of experts (96) or a size (4GiB)");
    if (request->kind == memory::BudgetRequest::Kind::kBytes && whole_bytes == 0)
      return wrong("the trace does not say how large an expert is: give a share or a number of experts");
    share = request->kind == memory::BudgetRequest::Kind::kShare
                ? request->share
                : static_cast<double>(request->bytes) / static_cast<double>(whole_bytes);
  }
  if (share > 1) return wrong("the trace has only " + std::to_string(records) + " experts");
  if (share * static_cast<double>(records) < 1) return wrong("less than one expert");
  return share;
}

Result<std::vector<weights::Policy>> parse_policies(const std::vector<std::string>& names) {
  if (names.empty()) return std::vector(std::begin(weights::kPolicies), std::end(weights::kPolicies));
  std::vector<weights::Policy> policies;
  for (const std::string& name : names) {
    const auto policy = weights::find_policy(name);
    if (!policy)
      return fail(
          ErrorCode::kInvalidArgument,
          "--policies " + name + ": there are lfu, lru, slru, lcp and least-stale (belady is always shown)");
    policies.push_back(*policy);
  }
  return policies;
}

Row replay_row(const weights::RoutingTrace& trace, const weights::TracePools& pools,
               const std::vector<weights::Policy>& policies, double share) {
  Row row;
  std::vector<uint64_t> slots;
  uint64_t records = 0;
  for (size_t i = 0; i < pools.records.size(); ++i) {
    const double wanted = std::round(share * static_cast<double>(pools.records[i]));
    slots.push_back(std::max<uint64_t>(1, static_cast<uint64_t>(wanted)));
    row.slots += slots.back();
    row.bytes += slots.back() * pools.record_bytes[i];
    records += pools.records[i];
  }
  row.share = static_cast<double>(row.slots) / static_cast<double>(records);
  for (const weights::Policy policy : policies)
    row.rates.push_back(weights::replay(trace, policy, slots).byte_hit_rate());
  row.optimum = weights::replay_optimum(trace, slots).byte_hit_rate();
  row.best = static_cast<size_t>(std::max_element(row.rates.begin(), row.rates.end()) - row.rates.begin());
  return row;
}

void print_table(const weights::RoutingTrace& trace, const std::vector<weights::Policy>& policies,
                 const std::vector<Row>& rows) {
  std::printf("%llu tokens, %u layers, %u experts chosen in each; hit rates in %%, from an empty cache\n",
              static_cast<unsigned long long>(trace.tokens), trace.shape.layers(), trace.shape.top_k);
  std::printf("%7s %8s", "cache", "experts");
  for (const weights::Policy policy : policies) std::printf(" %11s", weights::policy_name(policy).data());
  std::printf(" %8s   best online, behind belady\n", "belady");
  for (const Row& row : rows) {
    std::printf("%5.1f %% %8llu", 100 * row.share, static_cast<unsigned long long>(row.slots));
    for (const double rate : row.rates) std::printf(" %11.1f", 100 * rate);
    std::printf(" %8.1f   %s, %.1f points\n", 100 * row.optimum,
                weights::policy_name(policies[row.best]).data(), 100 * (row.optimum - row.rates[row.best]));
  }
}

Json to_json(const weights::RoutingTrace& trace, const std::vector<weights::Policy>& policies,
             const std::vector<Row>& rows) {
  Json out = {{"tokens", trace.tokens},
              {"layers", trace.shape.layers()},
              {"top_k", trace.shape.top_k},
              {"experts", trace.shape.experts}};
  for (const Row& row : rows) {
    Json rates = Json::object();
    for (size_t i = 0; i < policies.size(); ++i)
      rates[std::string(weights::policy_name(policies[i]))] = row.rates[i];
    rates["belady"] = row.optimum;
    Json entry = {{"share", row.share},
                  {"slots", row.slots},
                  {"hit_rate", rates},
                  {"best_online", weights::policy_name(policies[row.best])},
                  {"belady_gap", row.optimum - row.rates[row.best]}};
    if (row.bytes != 0) entry["bytes"] = row.bytes;
    out["caches"].push_back(entry);
  }
  return out;
}

Status write_svg(const Flags& flags, const std::vector<weights::Policy>& policies, std::vector<Row> rows) {
  std::sort(rows.begin(), rows.end(), [](const Row& a, const Row& b) { return a.share < b.share; });
  std::vector<double> shares;
  std::vector<PlotLine> lines(policies.size() + 1);
  for (size_t i = 0; i < policies.size(); ++i) lines[i].name = weights::policy_name(policies[i]);
  lines.back().name = "belady (optimum)";
  lines.back().dashed = true;
  for (const Row& row : rows) {
    shares.push_back(row.share);
    for (size_t i = 0; i < policies.size(); ++i) lines[i].rates.push_back(row.rates[i]);
    lines.back().rates.push_back(row.optimum);
  }
  const std::string name = flags.path.substr(flags.path.find_last_of('/') + 1);
  const std::string picture = replay_svg("Hit rate by cache size: " + name, shares, lines);
  ASSIGN_OR_RETURN(platform::NewFile file,
                   platform::NewFile::create(flags.svg, flags.force ? platform::Overwrite::kReplace
                                                                    : platform::Overwrite::kRefuse));
  RETURN_IF_ERROR(file.append({reinterpret_cast<const uint8_t*>(picture.data()), picture.size()}));
  return file.commit();
}

Status run(const Flags& flags) {
  ASSIGN_OR_RETURN(const std::vector<weights::Policy> policies, parse_policies(flags.policies));
  ASSIGN_OR_RETURN(const weights::RoutingTrace trace, weights::load_trace(flags.path));
  const weights::TracePools pools = weights::pools_of(trace.shape);
  uint64_t records = 0, bytes = 0;
  for (size_t i = 0; i < pools.records.size(); ++i) {
    records += pools.records[i];
    bytes += pools.records[i] * pools.record_bytes[i];
  }
  std::vector<double> shares;
  for (const std::string& text : flags.caches) {
    ASSIGN_OR_RETURN(const double share, parse_cache(text, records, bytes));
    shares.push_back(share);
  }
  std::vector<Row> rows;
  const auto progress = progress_line("replaying");
  for (const double share : shares) {
    rows.push_back(replay_row(trace, pools, policies, share));
    if (progress) progress(rows.size(), shares.size());
  }
  if (!flags.svg.empty()) RETURN_IF_ERROR(write_svg(flags, policies, rows));
  if (flags.json) {
    std::printf("%s\n", dump_json(to_json(trace, policies, rows), 2).c_str());
  } else {
    print_table(trace, policies, rows);
  }
  return {};
}

}  // namespace

void add_trace(CLI::App& app, Action& action) {
  CLI::App* trace =
      app.add_subcommand("trace", "Record which experts tokens choose, and replay caches on it");
  trace->require_subcommand(1);
  add_trace_record(*trace, action);
  const auto flags = std::make_shared<Flags>();
  CLI::App* command =
      trace->add_subcommand("replay", "Hit rates of every cache policy on a trace, and the optimum");
  command->add_option("trace", flags->path, "The trace (safetensors)")->required();
  command
      ->add_option("--cache", flags->caches,
                   "Cache sizes, with commas between: shares of all experts (25%), numbers of experts (96), "
                   "sizes (4GiB)")
      ->delimiter(',')
      ->capture_default_str();
  command->add_option("--policies", flags->policies, "Of lfu, lru, slru, lcp, least-stale (default: all)")
      ->delimiter(',');
  command->add_option("--svg", flags->svg, "Write a plot to this file");
  command->add_flag("--force", flags->force, "Replace an existing plot");
  command->add_flag("--json", flags->json, "For machines");
  command->callback([flags, &action] { action = [flags] { return run(*flags); }; });
}

}  // namespace mlxf::cli
