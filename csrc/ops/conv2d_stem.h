// The first layer of a network in bands of output rows, for callers that consume them one after the other. For volumes
// each output slice is an image, made from as many input slices as the kernel has; for images there is one slice.
#pragma once

#include "ops/conv2d.h"

namespace convlane {

// Output rows of a band when nothing else limits them.
int64_t stem_band_rows(const Conv2dDesc& desc, int64_t slices = 1);

// Scratch for threads that take bands of at most `rows` output rows.
struct StemMemory {
  int64_t slices, slice_floats;
  int64_t own_floats, own_pointers, own_taps;  // of each thread
  float* floats;
  const float** pointers;
  int64_t* taps;

  StemMemory(const Conv2dDesc& desc, int64_t rows, int threads, Scratch& scratch, int64_t slices = 1);
};

// One thread's pass through bands of at most `rows` output rows of one image.
class StemBands {
 public:
  // Keeps references to desc and args; args.dst is not used.
  StemBands(const Conv2dDesc& desc, const Conv2dArgs& args, int64_t rows, const StemMemory& memory, int thread);

  int64_t rows() const { return rows_; }
  // Output rows [first, first + count) of an image; dst points at the first one.
  void run(int64_t image, int64_t first, int64_t count, float* dst, int64_t dst_stride) const;
  // The same for an output slice made from these slices, in order; slices without data are padding. `pixel` is the
  // first pixel written, counted over the whole result.
  void run(const ImageView* slices, int64_t pixel, int64_t first, int64_t count, float* dst, int64_t dst_stride) const;

 private:
  const Conv2dDesc& d_;
  const Conv2dArgs& args_;
  int64_t rows_;
  int64_t slices_, slice_floats_;
  float* padded_;
  const float** pointers_;  // to the first tap of each pixel
  int64_t* taps_;           // floats from there to each
};

}  // namespace convlane
