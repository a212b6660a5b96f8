// Filters of pictures.
#include <stdexcept>

#include "bindings/arrays.h"
#include "ops/filter.h"
#include "runtime/threads.h"

namespace convlane {
namespace {

using Kernel = py::array_t<double, py::array::c_style | py::array::forcecast>;
using Integers = py::array_t<int64_t, py::array::c_style | py::array::forcecast>;

template <class T>
std::vector<T> values_of(const py::array_t<T, py::array::c_style | py::array::forcecast>& array) {
  return {array.data(), array.data() + array.size()};
}

template <class T>
py::array filtered(const FilterDesc& desc, const py::array& picture) {
  py::array_t<T> dst({desc.out_height(), desc.out_width(), desc.channels});
  const T* from = static_cast<const T*>(picture.data());
  T* to = dst.mutable_data();
  const GilRelease release;
  run_filter(desc, from, to, num_threads());
  return dst;
}

}  // namespace

void bind_filter(py::module_& m) {
  m.def(
      "filter_picture",
      [](const py::array& picture, const Kernel& first, const Kernel& second, const Integers& rows,
         const Integers& before, const Integers& after, double fill) {
        if (picture.ndim() != 3 || (picture.flags() & py::array::c_style) == 0 || first.ndim() != 2)
          throw std::invalid_argument("filter: the picture must be dense (H, W, C), the kernel (rows, columns)");
        const FilterDesc desc{picture.shape(0),
                              picture.shape(1),
                              picture.shape(2),
                              first.shape(0),
                              first.shape(1),
                              values_of(first),
                              values_of(second),
                              values_of(rows),
                              values_of(before),
                              values_of(after),
                              fill};
        check_filter(desc);
        if (py::isinstance<py::array_t<std::uint8_t>>(picture)) return filtered<std::uint8_t>(desc, picture);
        if (py::isinstance<py::array_t<float>>(picture)) return filtered<float>(desc, picture);
        if (py::isinstance<py::array_t<double>>(picture)) return filtered<double>(desc, picture);
        throw py::type_error("filter: the picture must be uint8, float32 or float64");
      },
      py::arg("picture"), py::arg("first"), py::arg("second"), py::arg("rows"), py::arg("before"), py::arg("after"),
      py::arg("fill"));
}

}  // namespace convlane
