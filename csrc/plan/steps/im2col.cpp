// Steps of im2col and col2im. Attributes: kernel, stride, padding and dilation.
#include "ops/im2col.h"

#include <algorithm>

#include "plan/steps/dense.h"

namespace convlane {
namespace {

template <std::size_t Count>
std::array<int64_t, Count> numbers_of(const StepArguments& at, const std::string& name) {
  const auto& given = at.get<std::vector<int64_t>>(name);
  at.check(given.size() == Count, name + " must have " + std::to_string(Count) + " numbers");
  std::array<int64_t, Count> numbers;
  std::copy(given.begin(), given.end(), numbers.begin());
  return numbers;
}

// The description of an image (N, C, H, W) and its columns (N, rows, L), checked against both.
Im2colDesc described(const StepArguments& at, const Tensor& image, const Tensor& columns) {
  at.check(image.dtype == DType::f32 && columns.dtype == DType::f32 && image.rank == 4 && columns.rank == 3,
           "it needs a float32 image (N, C, H, W) and columns (N, rows, L)");
  Shape4 shape;
  std::copy_n(image.shape.begin(), 4, shape.begin());
  const Window window = window_of(numbers_of<2>(at, "stride"), numbers_of<4>(at, "padding"),
                                  numbers_of<2>(at, "dilation"), numbers_of<2>(at, "kernel"));
  const Im2colDesc desc = describe_im2col(at.op.c_str(), shape, window);
  at.check(columns.shape[0] == shape[0] && columns.shape[1] == desc.rows && columns.shape[2] == desc.columns,
           "the columns are not those of the image");
  return desc;
}

Step prepare_im2col(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const Im2colDesc desc = described(*at, src->tensor, dst->tensor);
  const int threads = at->threads;
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    const Dense image(*src, scratch), columns(*dst, scratch);
    if (run == nullptr) return;
    const auto [n, c, h, w] = desc.image;
    im2col(desc, {image.load(*run).floats(), desc.image, {c * h * w, h * w, w, 1}}, columns.open(*run).floats(),
           threads);
    columns.store(*run);
  });
}

Step prepare_col2im(std::shared_ptr<const StepArguments> at) {
  const StepOperand *dst = &at->output(1, 1), *src = &at->inputs[0];
  const Im2colDesc desc = described(*at, dst->tensor, src->tensor);
  const int threads = at->threads;
  return step_of([=](const PlanRun* run, Scratch& scratch) {
    const Dense columns(*src, scratch), image(*dst, scratch);
    if (run == nullptr) return;
    const int64_t rows = desc.rows, count = desc.columns;
    const ImageView view{columns.load(*run).floats(), {desc.image[0], rows, 1, count}, {rows * count, count, count, 1}};
    col2im(desc, view, image.open(*run).floats(), threads);
    image.store(*run);
  });
}

const RegisterStep im2col_step("im2col", prepare_im2col);
const RegisterStep col2im_step("col2im", prepare_col2im);

}  // namespace
}  // namespace convlane
