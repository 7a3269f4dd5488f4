#include "cli/replay_plot.h"

#include <algorithm>
#include <cstdio>

namespace mlxf::cli {
namespace {

// The picture's own units; the right margin holds the lines' names.
constexpr double kWidth = 720, kHeight = 420, kLeft = 56, kRight = 130, kTop = 40, kBottom = 48;
constexpr double kNameDistance = 15;
// Okabe and Ito's colours, which the colour-blind can tell apart.
constexpr const char* kColours[] = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"};

double x_of(double share) { return kLeft + share * (kWidth - kLeft - kRight); }
double y_of(double rate) { return kHeight - kBottom - rate * (kHeight - kTop - kBottom); }

std::string format(const char* pattern, double a, double b = 0, double c = 0, double d = 0) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, a, b, c, d);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

std::string text_at(double x, double y, const std::string& text, const char* more = "") {
  return format("<text x=\"%.1f\" y=\"%.1f\" ", x, y) + more + ">" + escaped(text) + "</text>\n";
}

std::string axes() {
  std::string out;
  for (int percent = 0; percent <= 100; percent += 20) {
    const double at = percent / 100.0;
    out += format("<path d=\"M%.1f %.1fH%.1f\" class=\"grid\"/>\n", kLeft, y_of(at), x_of(1));
    out += text_at(kLeft - 8, y_of(at) + 4, std::to_string(percent) + " %", "text-anchor=\"end\"");
    out +=
        text_at(x_of(at), kHeight - kBottom + 18, std::to_string(percent) + " %", "text-anchor=\"middle\"");
  }
  out += text_at(x_of(0.5), kHeight - 10, "experts in the cache", "text-anchor=\"middle\"");
  return out;
}

}  // namespace

std::string replay_svg(const std::string& title, const std::vector<double>& shares,
                       const std::vector<PlotLine>& lines) {
  std::string out =
      format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\">\n", kWidth, kHeight);
  out +=
      "<style>text{font:12px sans-serif;fill:#888}.grid{stroke:#8884;fill:none}"
      ".line{fill:none;stroke-width:2}</style>\n";
  out += text_at(kLeft, 22, title);
  out += axes();
  std::vector<std::pair<double, size_t>> names;  // Where each line ends, from above.
  for (size_t i = 0; i < lines.size(); ++i) names.emplace_back(y_of(lines[i].rates.back()), i);
  std::sort(names.begin(), names.end());
  for (size_t i = 1; i < names.size(); ++i)
    names[i].first = std::max(names[i].first, names[i - 1].first + kNameDistance);
  for (const auto& [y, i] : names) {
    const PlotLine& line = lines[i];
    const std::string colour = kColours[i % std::size(kColours)];
    out += "<polyline class=\"line\" stroke=\"" + colour + "\"" +
           (line.dashed ? " stroke-dasharray=\"6 4\"" : "") + " points=\"";
    for (size_t j = 0; j < shares.size(); ++j)
      out += format("%.1f,%.1f ", x_of(shares[j]), y_of(line.rates[j]));
    out += "\"/>\n";
    out += text_at(x_of(shares.back()) + 12, y + 4, line.name, ("style=\"fill:" + colour + "\"").c_str());
  }
  return out + "</svg>\n";
}

}  // namespace mlxf::cli
