// Layout conversions, concatenation and interleaving.
#include "bindings/arrays.h"
#include "ops/shape.h"
#include "runtime/threads.h"

namespace convlane {
namespace {

// For channels-last images: from many channels to few, or back.
template <class Run>
py::array shuffled(const ImageView& src, const Shuffle& shuffle, const Shape4& shape, const Run& run) {
  if (src.count() != 0 && !src.is_channels_last())
    throw std::invalid_argument("pixel_shuffle: the images must be channels last");
  check_shuffle(shuffle);
  py::array dst = new_image(shape);
  float* to = data_of(dst);
  const GilRelease release;
  const int threads = num_threads();
  const AlignedArray<float> scratch = allocate_aligned<float>(shuffle_scratch(shuffle, threads));
  run(shuffle, src.data, to, scratch.get(), threads);
  return dst;
}

}  // namespace

void bind_layout(py::module_& m) {
  m.def(
      "to_channels_last",
      [](const py::array& input) {
        const ImageView src = image_view(input, "input");
        py::array dst = new_image(src.shape);
        float* to = data_of(dst);
        const GilRelease release;
        copy_to_channels_last(src, to);
        return dst;
      },
      py::arg("input"));
  m.def(
      "to_nchw",
      [](const py::array& input) {
        const ImageView src = image_view(input, "input");
        py::array dst = new_array({src.shape.begin(), src.shape.end()});
        float* to = data_of(dst);
        const GilRelease release;
        copy_to_nchw(src, to);
        return dst;
      },
      py::arg("input"));
  m.def(
      "cat",
      [](const std::vector<py::array>& tensors, int64_t dim, const Shape4& shape) {
        std::vector<ImageView> images;
        for (const py::array& tensor : tensors) images.push_back(image_view(tensor, "tensors"));
        py::array dst = new_image(shape);
        float* to = data_of(dst);
        const GilRelease release;
        run_cat(images, dim, shape, to);
        return dst;
      },
      py::arg("tensors"), py::arg("dim"), py::arg("shape"));
  m.def(
      "interleave",
      [](const std::vector<py::array>& tensors) {
        std::vector<ImageView> images;
        for (const py::array& tensor : tensors) images.push_back(image_view(tensor, "tensors"));
        if (images.empty()) throw std::invalid_argument("interleave: there are no images");
        Shape4 shape = images[0].shape;
        for (const ImageView& image : images)
          if (image.shape != shape) throw std::invalid_argument("interleave: the images differ in shape");
        shape[1] = checked_mul(shape[1], static_cast<int64_t>(images.size()));
        py::array dst = new_image(shape);
        float* to = data_of(dst);
        const GilRelease release;
        std::vector<ChannelsLast> converted;
        converted.reserve(images.size());
        for (ImageView& image : images)
          if (!has_one_stride(image)) image = converted.emplace_back(image).view();
        run_interleave(images.data(), static_cast<int64_t>(images.size()), to);
        return dst;
      },
      py::arg("tensors"));
  m.def(
      "pixel_shuffle",
      [](const py::array& input, int64_t factor) {
        const ImageView src = image_view(input, "input");
        const Shuffle shuffle{src.shape, factor};
        check_shuffle(shuffle);
        return shuffled(src, shuffle, shuffle.few(), run_pixel_shuffle);
      },
      py::arg("input"), py::arg("factor"));
  m.def(
      "pixel_unshuffle",
      [](const py::array& input, int64_t factor) {
        const ImageView src = image_view(input, "input");
        const auto [n, c, h, w] = src.shape;
        if (factor < 1 || h % factor != 0 || w % factor != 0)
          throw std::invalid_argument("pixel_unshuffle: the factor does not divide height and width");
        const Shape4 many{n, checked_mul(c, checked_mul(factor, factor)), h / factor, w / factor};
        return shuffled(src, {many, factor}, many, run_pixel_unshuffle);
      },
      py::arg("input"), py::arg("factor"));
}

}  // namespace convlane
