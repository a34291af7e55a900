// Depthwise 3x3 convolution, padding 1, stride 1 or 2, and both gradients, [N, C, H, W] float32 in the plain layout.
//
// Every plane is copied into a frame of zeros and then taken as one long row: no loop knows borders or line ends, and
// what falls on the frame is left out when the result is copied back. Stride 2 keeps every second number of stride 1
// in both directions, and its gradient has zeros between: four times the arithmetic, and still less than the memory.
#include <algorithm>

#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"

namespace {

using paddle::Tensor;
using paddle::experimental::empty_like;
using Shape = std::vector<int64_t>;
using Type = paddle::DataType;

struct Frame {  // a plane [height, width] with a zero around it, in lines of `pitch` numbers
  Frame(int64_t height, int64_t width) : pitch(width + 2), size(height * pitch), data(size + 2 * pitch + 2, 0.0f) {}
  // Puts a plane [rows, columns] in, its numbers `step` apart; those between stay 0.
  void put(const float* plane, int64_t rows, int64_t columns, int64_t step) {
    for (int64_t y = 0; y < rows; ++y) {
      float* to = data.data() + (y * step + 1) * pitch + 1;
      if (step == 1) std::copy_n(plane + y * columns, columns, to);
      else for (int64_t x = 0; x < columns; ++x) to[x * step] = plane[y * columns + x];
    }
  }
  int64_t pitch, size;
  std::vector<float> data;
};

int64_t reduced(int64_t size, int64_t stride) { return (size - 1) / stride + 1; }

// out[k] = sum of w[j, i] * frame[k + j * pitch + i]: line y of the result begins at y * pitch.
void correlate(const Frame& frame, const float* w, float* out) {
  const float *a = frame.data.data(), *b = a + frame.pitch, *c = b + frame.pitch;
  const float w0 = w[0], w1 = w[1], w2 = w[2], w3 = w[3], w4 = w[4], w5 = w[5], w6 = w[6], w7 = w[7], w8 = w[8];
#pragma omp simd
  for (int64_t k = 0; k < frame.size; ++k) {
    out[k] = w0 * a[k] + w1 * a[k + 1] + w2 * a[k + 2] + w3 * b[k] + w4 * b[k + 1] + w5 * b[k + 2] + w6 * c[k] +
             w7 * c[k + 1] + w8 * c[k + 2];
  }
}

// Copies every `step`-th number of every `step`-th line to a plane [rows, columns].
void pick(const float* lines, int64_t pitch, int64_t step, float* plane, int64_t rows, int64_t columns) {
  for (int64_t y = 0; y < rows; ++y) {
    const float* from = lines + y * step * pitch;
    if (step == 1) std::copy_n(from, columns, plane + y * columns);
    else for (int64_t x = 0; x < columns; ++x) plane[y * columns + x] = from[x * step];
  }
}

// totals[j, i] += sum of dy[y, x] * x[y + j - 1, x + i - 1]
void add_products(const Frame& frame, const Frame& of_y, double* totals) {
  const float *a = frame.data.data(), *b = a + frame.pitch, *c = b + frame.pitch;
  const float* dy = of_y.data.data() + of_y.pitch + 1;
  float t0 = 0, t1 = 0, t2 = 0, t3 = 0, t4 = 0, t5 = 0, t6 = 0, t7 = 0, t8 = 0;
#pragma omp simd reduction(+ : t0, t1, t2, t3, t4, t5, t6, t7, t8)
  for (int64_t k = 0; k < frame.size; ++k) {
    t0 += dy[k] * a[k], t1 += dy[k] * a[k + 1], t2 += dy[k] * a[k + 2];
    t3 += dy[k] * b[k], t4 += dy[k] * b[k + 1], t5 += dy[k] * b[k + 2];
    t6 += dy[k] * c[k], t7 += dy[k] * c[k + 1], t8 += dy[k] * c[k + 2];
  }
  const float found[] = {t0, t1, t2, t3, t4, t5, t6, t7, t8};
  for (int k = 0; k < 9; ++k) totals[k] += found[k];
}

std::vector<Shape> ForwardShapes(const Shape& x, const Shape& w, int stride) {
  const auto axis = [stride](int64_t size) { return size < 0 ? size : reduced(size, stride); };
  return {{x[0], x[1], axis(x[2]), axis(x[3])}};
}

std::vector<Tensor> Forward(const Tensor& x, const Tensor& w, int stride) {
  const int64_t channels = x.shape()[1], planes = x.shape()[0] * channels, height = x.shape()[2], width = x.shape()[3];
  Tensor y = paddle::experimental::empty(ForwardShapes(x.shape(), w.shape(), stride)[0], x.dtype(), x.place());
  const float *in = x.data<float>(), *weights = w.data<float>();
  float* out = y.data<float>();
  const int64_t rows = reduced(height, stride), columns = reduced(width, stride);
#pragma omp parallel
  {
    Frame frame(height, width);
    std::vector<float> lines(frame.size);
#pragma omp for
    for (int64_t p = 0; p < planes; ++p) {
      frame.put(in + p * height * width, height, width, 1);
      correlate(frame, weights + p % channels * 9, lines.data());
      pick(lines.data(), frame.pitch, stride, out + p * rows * columns, rows, columns);
    }
  }
  return {y};
}

std::vector<Tensor> Backward(const Tensor& x, const Tensor& w, const Tensor& of_y, int stride) {
  const int64_t images = x.shape()[0], channels = x.shape()[1], height = x.shape()[2], width = x.shape()[3];
  const int64_t rows = of_y.shape()[2], columns = of_y.shape()[3];
  Tensor of_x = empty_like(x), of_w = empty_like(w);
  const float *in = x.data<float>(), *dy = of_y.data<float>(), *weights = w.data<float>();
  float *dx = of_x.data<float>(), *dw = of_w.data<float>();
#pragma omp parallel
  {
    Frame frame(height, width), spread(height, width);
    std::vector<float> lines(frame.size);
#pragma omp for
    for (int64_t c = 0; c < channels; ++c) {
      double totals[9] = {};
      float turned[9];
      std::reverse_copy(weights + c * 9, weights + c * 9 + 9, turned);
      for (int64_t n = 0; n < images; ++n) {
        const int64_t p = n * channels + c;
        frame.put(in + p * height * width, height, width, 1);
        spread.put(dy + p * rows * columns, rows, columns, stride);
        correlate(spread, turned, lines.data());
        pick(lines.data(), frame.pitch, 1, dx + p * height * width, height, width);
        add_products(frame, spread, totals);
      }
      std::copy(totals, totals + 9, dw + c * 9);
    }
  }
  return {of_x, of_w};
}

std::vector<Shape> BackwardShapes(const Shape& x, const Shape& w, const Shape&, int) { return {x, w}; }
std::vector<Type> ForwardTypes(const Type& x, const Type&) { return {x}; }
std::vector<Type> BackwardTypes(const Type& x, const Type& w, const Type&) { return {x, w}; }

}  // namespace

PD_BUILD_OP(slim_depthwise_conv2d)
    .Inputs({"X", "Weights"})
    .Outputs({"Y"})
    .Attrs({"stride: int"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(ForwardShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(ForwardTypes));

PD_BUILD_OP(slim_depthwise_conv2d_backward)
    .Inputs({"X", "Weights", "YGrad"})
    .Outputs({"XGrad", "WeightsGrad"})
    .Attrs({"stride: int"})
    .SetKernelFn(PD_KERNEL(Backward))
    .SetInferShapeFn(PD_INFER_SHAPE(BackwardShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(BackwardTypes));
