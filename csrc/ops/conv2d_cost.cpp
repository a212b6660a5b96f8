// The static cost model that chooses among the algorithms for dense 3x3 convolutions. It estimates cycles of one thread
// for one image from sizes alone, so the choice never depends on the batch, the threads or the run.
//
// The constants are estimates (vector operations and stores counted, bandwidth rounded), not fitted to measurements;
// only their ratios matter.
#include <algorithm>

#include "ops/conv2d_winograd.h"

namespace convlane {
namespace {

constexpr double kUnits = 2;  // multiply-add units
constexpr double kEfficiency =
    0.92;  // fraction of the peak that the matrix kernel reaches: 86 to 97 % on layers of ResNet-50 (Zen 5, 2026-11-21)
constexpr double kColdBytes = 8;  // bytes of weights read from memory per cycle: a network's weights rarely stay cached
constexpr double kInputTransform[] = {55, 150};  // cycles per tile and vector of channels, m = 2 and 4
constexpr double kOutputTransform[] = {40, 110};
// Fitted to 26 grouped layers, those of ResNeXt and RegNet and some of odd sizes, with AVX2 and AVX-512: the choice is
// 2.6 % slower than the best algorithm in the geometric mean while weights stay cached (Zen 4, 2026-11-27).
constexpr double kTapStart = 4, kTileStart = 14;

// Weights are loaded while products are computed; the shorter of the two times is mostly hidden.
double overlapped(double compute, double stream) { return std::max(compute, stream) + 0.2 * std::min(compute, stream); }

// Along one dimension: how often taps meet the image, and how many taps ever do.
struct Met {
  int64_t times, taps;
  Met(const Conv2dDesc& d, int dimension) : times(0), taps(0) {
    const Window& w = d.window;
    for (int64_t tap = 0; tap < w.kernel[dimension]; ++tap) {
      const int64_t offset = tap * w.dilation[dimension] - (dimension == 0 ? w.top : w.left);
      const Range met =
          valid_outputs(offset, w.stride[dimension], dimension == 0 ? d.h : d.w, dimension == 0 ? d.oh : d.ow);
      times += met.end - met.begin;
      taps += met.end > met.begin;
    }
  }
};

// Output channels, including the lanes that groups leave empty.
double filled(const Conv2dDesc& d, int lanes) {
  const Shape4 weight{d.o, d.c_per_group(), d.kh(), d.kw()};
  const int64_t together = d.groups == 1 ? 1 : std::max<int64_t>(groups_in_vector(weight, d.groups, lanes), 1);
  return static_cast<double>(ceil_div(d.groups, together)) * round_up(together * d.o_per_group(), lanes);
}

// The fraction of kEfficiency that products of few channels reach: each tap, or tile, has an overhead as large as the
// cost of `start` channels.
double short_sums(const Conv2dDesc& d, double start) {
  return d.groups == 1 ? 1.0 : d.c_per_group() / (d.c_per_group() + start);
}

// Taps in the padding are skipped.
double direct_cycles(const Conv2dDesc& d, int lanes) {
  const Met down(d, 0), across(d, 1);
  const double channels = static_cast<double>(d.o) * d.c_per_group();
  const double computed = d.groups == 1 ? channels : filled(d, lanes) * d.c_per_group();
  const double products =
      computed * down.times * across.times * d.n / (kUnits * lanes * kEfficiency * short_sums(d, kTapStart));
  return overlapped(products, 4.0 * channels * down.taps * across.taps / kColdBytes);
}

double winograd_cycles(const Conv2dDesc& d, int lanes, int m) {
  const Tiling t = tiling(d, m);
  const double tiles = static_cast<double>(t.count), points = static_cast<double>(t.points);
  const double outputs = filled(d, lanes);
  const double products =
      tiles * points * d.c_per_group() * outputs / (kUnits * lanes * kEfficiency * short_sums(d, kTileStart));
  const double transforms =
      tiles * (kInputTransform[m / 4] * ceil_div(d.c, lanes) + kOutputTransform[m / 4] * outputs / lanes);
  return overlapped(products, 4.0 * points * d.o * d.c_per_group() / kColdBytes) + transforms;
}

}  // namespace

int64_t met_taps(const Conv2dDesc& d) { return Met(d, 0).times * Met(d, 1).times; }

std::string cheapest_conv2d(const Conv2dDesc& desc, bool winograd) {
  Conv2dDesc d = desc;
  d.n = 1;
  const WeightLayout layout = conv2d_weight_layout({d.o, d.c_per_group(), d.kh(), d.kw()}, d.groups, "auto");
  const std::string usual = choose_conv2d(d, "auto", layout).name;
  if (usual == "depthwise") return usual;
  if (refuse_planes(d).empty()) return "planes";
  if (refuse_narrow(d).empty()) return "narrow";
  if (winograd && usual == "direct" && refuse_winograd(d).empty()) {
    const std::string product = cheapest_product(d);
    if (product != "direct") return product;
  }
  return refuse_grouped(d).empty() ? "grouped" : usual;
}

std::string cheapest_product(const Conv2dDesc& desc) {
  Conv2dDesc d = desc;
  d.n = 1;
  const int lanes = active_table().lanes;
  const double direct = direct_cycles(d, lanes), two = winograd_cycles(d, lanes, 2),
               four = winograd_cycles(d, lanes, 4);
  if (four <= std::min(direct, two)) return "winograd4";
  return two <= direct ? "winograd2" : "direct";
}

std::vector<std::string> conv2d_candidates(const Conv2dDesc& desc, bool winograd) {
  std::vector<std::string> names{cheapest_conv2d(desc, winograd)};
  if (names[0] == "pointwise" || names[0] == "depthwise") return names;
  const auto add = [&](const char* name, bool possible) {
    if (possible && names[0] != name) names.emplace_back(name);
  };
  // Not im2col, which copies what direct only points at: it was faster on no layer of four networks (Zen 5,
  // 2026-11-21).
  add(refuse_grouped(desc).empty() ? "grouped" : "direct", true);
  add("stem", refuse_stem(desc).empty());
  add("winograd4", winograd && refuse_winograd(desc).empty());
  add("winograd2", winograd && refuse_winograd(desc).empty());
  return names;
}

}  // namespace convlane
