// The hit rates of a replay as a self-contained SVG: one line per policy over the share of the experts in the cache.
//
// A pure function; any thread. The picture needs no script and no font file, and is legible on light and dark pages.
// Points come in ascending order; rates and shares are between 0 and 1.
#pragma once

#include <string>
#include <vector>

namespace mlxf::cli {

struct PlotLine {
  std::string name;
  std::vector<double> rates;  // As many as there are shares.
  bool dashed = false;
};
[[nodiscard]] std::string replay_svg(const std::string& title, const std::vector<double>& shares,
                                     const std::vector<PlotLine>& lines);

}  // namespace mlxf::cli
