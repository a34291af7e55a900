// 3x3 convolution of stride 1 and padding 1 by Winograd's algorithm, [N, C, H, W] float32 in the plain layout: with
// bias, residual sum and activation, the transformed weights by themselves, and the gradient of the weights.
#include "winograd.h"

#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"

namespace {

using namespace winograd;
using paddle::Tensor;
using paddle::experimental::empty;
using Shape = std::vector<int64_t>;
using Type = paddle::DataType;

typedef float Four __attribute__((vector_size(16), aligned(4), may_alias));

constexpr int64_t kGroup = 8 * kRows;  // tiles that are multiplied together
constexpr int64_t kCache = 1 << 20;    // numbers of V at a time
constexpr int64_t kMost = 1 << 24;     // numbers of V and Y at a time for a gradient, 64 MiB
constexpr int64_t kTogether = 128;     // input channels of a gradient that are multiplied together

Maps maps_of(const Tensor& x) { return {x.data<float>(), x.shape()[0], x.shape()[1], x.shape()[2], x.shape()[3]}; }

// U[point][panel][input][output of the panel] of weights [outputs, inputs, 3, 3]; `turned` for the convolution that is
// the gradient: weights [inputs, outputs, 3, 3], each kernel turned by 180 degrees.
std::vector<Tensor> Weights(const Tensor& w, bool turned) {
  const int64_t outputs = w.shape()[turned], inputs = w.shape()[!turned], panels = whole(outputs, kPanel);
  Tensor u = empty({kPoints, panels, inputs, kPanel}, w.dtype(), w.place());
  const float* from = w.data<float>();
  float* to = u.data<float>();
  const int64_t next_output = turned ? 9 : 9 * inputs, next_input = turned ? 9 * outputs : 9;
#pragma omp parallel for collapse(2)
  for (int64_t p = 0; p < panels; ++p) {
    for (int64_t c = 0; c < inputs; ++c) {
      for (int64_t k = 0; k < kPanel; k += kLanes) {
        Vector kernel[9] = {}, found[kPoints];
        const int64_t first = p * kPanel + k, count = std::clamp<int64_t>(outputs - first, 0, kLanes);
        for (int64_t l = 0; l < count; ++l) {
          const float* own = from + (first + l) * next_output + c * next_input;
          for (int i = 0; i < 9; ++i) kernel[turned ? 8 - i : i][l] = own[i];
        }
        both<weights, kKernel, kIn>(kernel, found);
        for (int q = 0; q < kPoints; ++q) store(to + ((q * panels + p) * inputs + c) * kPanel + k, found[q]);
      }
    }
  }
  return {u};
}

struct Output {  // where results go, and what is done to them on the way
  float* data;
  int64_t channels;
  const float* bias;
  const float* residual;  // null for none
  float slope;
};

// Tile `t` of the layer, channels of panel `p`: from M[point][channel], points `far` apart, to the plain layout.
void put_tile(const Maps& x, const float* m, int64_t far, int64_t t, int64_t p, const Output& y) {
  float found[kPanel][kOut * kOut];
  for (int k = 0; k < kPanel; k += kLanes) {
    Vector points[kPoints], tile[kOut * kOut];
    for (int q = 0; q < kPoints; ++q) points[q] = load(m + q * far + k);
    both<result, kIn, kOut>(points, tile);
    for (int from = 0; from < kOut * kOut; from += kLanes) {
      transpose(tile + from);
      for (int c = 0; c < kLanes; ++c) store(&found[k + c][from], tile[from + c]);
    }
  }
  const int64_t image = t / (x.down() * x.across()), top = t / x.across() % x.down() * kOut;
  const int64_t left = t % x.across() * kOut, first = p * kPanel, last = std::min<int64_t>(first + kPanel, y.channels);
  const int64_t rows = std::min<int64_t>(kOut, x.height - top), columns = std::min<int64_t>(kOut, x.width - left);
  for (int64_t k = first; k < last; ++k) {
    const int64_t start = ((image * y.channels + k) * x.height + top) * x.width + left;
    for (int64_t j = 0; j < rows; ++j) {
      float line[kOut];
      const int64_t at = start + j * x.width;
      Four value = *reinterpret_cast<const Four*>(&found[k - first][j * kOut]) + y.bias[k];
      if (y.residual != nullptr) {
        const float* residual = y.residual + at;
        if (columns < kOut) residual = std::copy_n(residual, columns, line) - columns;
        value += *reinterpret_cast<const Four*>(residual);
      }
      value = value > 0 ? value : y.slope * value;
      if (columns == kOut) {
        *reinterpret_cast<Four*>(y.data + at) = value;
      } else {
        *reinterpret_cast<Four*>(line) = value;
        std::copy_n(line, columns, y.data + at);
      }
    }
  }
}

// Rows of tiles are taken a few at a time, so that V stays in the cache: all channels are transformed, then multiplied.
void convolve(const Maps& x, const float* u, const Output& y) {
  static thread_local std::vector<float> kept_v, kept_lines, kept_m;
  const int64_t rows = x.rows(), across = x.across(), blocks = whole(x.channels, kLanes), depth = blocks * kLanes;
  const int64_t panels = whole(y.channels, kPanel);
  const int64_t step = std::clamp<int64_t>(kCache / (kPoints * depth * across), 1, rows);
  const int64_t far = spread(step * across * depth);
  float* v = room(kept_v, kPoints * far);
#pragma omp parallel
  {
    float *lines = room(kept_lines, x.lines()), *m = room(kept_m, kPoints * spread(kGroup * kPanel));
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = std::min(step, rows - begin), tiles = count * across, groups = whole(tiles, kGroup);
#pragma omp for collapse(2)
      for (int64_t row = 0; row < count; ++row) {
        for (int64_t block = 0; block < blocks; ++block) {
          float* out = v + row * across * depth + block * kLanes;
          fill<input, kIn>(x, begin + row, block * kLanes, out, far, depth, lines);
        }
      }
#pragma omp for collapse(2)
      for (int64_t p = 0; p < panels; ++p) {
        for (int64_t group = 0; group < groups; ++group) {
          const int64_t from = group * tiles / groups, size = (group + 1) * tiles / groups - from;
          const int64_t near = spread(size * kPanel);
          for (int64_t q = 0; q < kPoints; ++q) {
            const float* own = u + (q * panels + p) * x.channels * kPanel;
            multiply(size, v + q * far + from * depth, depth, 1, own, x.channels, m + q * near);
          }
          for (int64_t t = 0; t < size; ++t) put_tile(x, m + t * kPanel, near, begin * across + from + t, p, y);
        }
      }
    }
  }
}

Tensor run(const Tensor& x, const Tensor& u, const Tensor& bias, const float* residual, int64_t outputs, float slope) {
  Tensor y = empty({x.shape()[0], outputs, x.shape()[2], x.shape()[3]}, x.dtype(), x.place());
  convolve(maps_of(x), u.data<float>(), {y.data<float>(), outputs, bias.data<float>(), residual, slope});
  return y;
}

std::vector<Tensor> Alone(const Tensor& x, const Tensor& u, const Tensor& bias, int outputs, float slope) {
  return {run(x, u, bias, nullptr, outputs, slope)};
}
std::vector<Tensor> Sum(const Tensor& x, const Tensor& u, const Tensor& bias, const Tensor& residual, int outputs,
                        float slope) {
  return {run(x, u, bias, residual.data<float>(), outputs, slope)};
}

// Channels first .. last of the gradient of the weights [outputs, inputs, 3, 3], for the outputs of panel `p`, from
// its transform M[point][input][output of the panel]; `add` to what is there.
void put_weights(const float* m, int64_t far, int64_t first, int64_t last, int64_t inputs, int64_t p, int64_t outputs,
                 bool add, float* of_w) {
  for (int64_t c = first; c < last; ++c) {
    for (int k = 0; k < kPanel; k += kLanes) {
      Vector points[kPoints], found[9];
      for (int q = 0; q < kPoints; ++q) points[q] = load(m + q * far + (c - first) * kPanel + k);
      both<of_weights, kIn, kKernel>(points, found);
      const int64_t begin = p * kPanel + k, count = std::clamp<int64_t>(outputs - begin, 0, kLanes);
      for (int64_t l = 0; l < count; ++l) {
        float* own = of_w + ((begin + l) * inputs + c) * 9;
        for (int i = 0; i < 9; ++i) own[i] = found[i][l] + (add ? own[i] : 0.0f);
      }
    }
  }
}

// Of a convolution's weights: V of its input times Y, what the gradient of its result is behind the same points; so many
// rows of tiles at a time as memory is given, and the sum of their shares.
std::vector<Tensor> WeightsGradient(const Tensor& input_maps, const Tensor& of_y) {
  static thread_local std::vector<float> kept_v, kept_y, kept_lines, kept_m;
  const Maps x = maps_of(input_maps), dy = maps_of(of_y);
  const int64_t inputs = x.channels, outputs = dy.channels, across = x.across();
  const int64_t blocks = whole(inputs, kLanes), depth = blocks * kLanes, panels = whole(outputs, kPanel);
  const int64_t width = panels * kPanel, groups = whole(inputs, kTogether);
  const int64_t step = std::clamp<int64_t>(kMost / (kPoints * (depth + width) * across), 1, x.rows());
  const int64_t far_v = spread(step * across * depth), far_y = spread(step * across * width);
  Tensor of_w = empty({outputs, inputs, kKernel, kKernel}, input_maps.dtype(), input_maps.place());
  float *v = room(kept_v, kPoints * far_v), *y = room(kept_y, kPoints * far_y), *weights = of_w.data<float>();
#pragma omp parallel
  {
    const int64_t far = spread(kTogether * kPanel);
    float *lines = room(kept_lines, x.lines()), *m = room(kept_m, kPoints * far);
    for (int64_t begin = 0; begin < x.rows(); begin += step) {
      const int64_t count = std::min(step, x.rows() - begin), tiles = count * across;
#pragma omp for collapse(2) nowait
      for (int64_t row = 0; row < count; ++row) {
        for (int64_t block = 0; block < blocks; ++block) {
          float* out = v + row * across * depth + block * kLanes;
          fill<input, kIn>(x, begin + row, block * kLanes, out, far_v, depth, lines);
        }
      }
#pragma omp for collapse(2)
      for (int64_t row = 0; row < count; ++row) {
        for (int64_t first = 0; first < width; first += kLanes) {
          float* out = y + (first / kPanel * tiles + row * across) * kPanel + first % kPanel;
          fill<of_result, kOut>(dy, begin + row, first, out, far_y, kPanel, lines);
        }
      }
#pragma omp for collapse(2)
      for (int64_t p = 0; p < panels; ++p) {
        for (int64_t group = 0; group < groups; ++group) {
          const int64_t first = group * inputs / groups, last = (group + 1) * inputs / groups;
          for (int64_t q = 0; q < kPoints; ++q) {
            const float* own = y + q * far_y + p * tiles * kPanel;
            multiply(last - first, v + q * far_v + first, 1, depth, own, tiles, m + q * far);
          }
          put_weights(m, far, first, last, inputs, p, outputs, begin > 0, weights);
        }
      }
    }
  }
  return {of_w};
}

std::vector<Shape> WeightsShapes(const Shape& w, bool turned) {
  return {{kPoints, whole(w[turned], kPanel), w[!turned], kPanel}};
}
std::vector<Type> WeightsTypes(const Type& w) { return {w}; }
std::vector<Shape> AloneShapes(const Shape& x, const Shape&, const Shape&, int outputs, float) {
  return {{x[0], outputs, x[2], x[3]}};
}
std::vector<Type> AloneTypes(const Type& x, const Type&, const Type&) { return {x}; }
std::vector<Shape> SumShapes(const Shape& x, const Shape&, const Shape&, const Shape&, int outputs, float) {
  return {{x[0], outputs, x[2], x[3]}};
}
std::vector<Type> SumTypes(const Type& x, const Type&, const Type&, const Type&) { return {x}; }
std::vector<Shape> GradientShapes(const Shape& x, const Shape& of_y) { return {{of_y[1], x[1], kKernel, kKernel}}; }
std::vector<Type> GradientTypes(const Type& x, const Type&) { return {x}; }

}  // namespace

PD_BUILD_OP(slim_winograd_weights)
    .Inputs({"W"})
    .Outputs({"U"})
    .Attrs({"turned: bool"})
    .SetKernelFn(PD_KERNEL(Weights))
    .SetInferShapeFn(PD_INFER_SHAPE(WeightsShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(WeightsTypes));

PD_BUILD_OP(slim_winograd)
    .Inputs({"X", "U", "Bias"})
    .Outputs({"Y"})
    .Attrs({"outputs: int", "slope: float"})
    .SetKernelFn(PD_KERNEL(Alone))
    .SetInferShapeFn(PD_INFER_SHAPE(AloneShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(AloneTypes));

PD_BUILD_OP(slim_winograd_sum)
    .Inputs({"X", "U", "Bias", "Residual"})
    .Outputs({"Y"})
    .Attrs({"outputs: int", "slope: float"})
    .SetKernelFn(PD_KERNEL(Sum))
    .SetInferShapeFn(PD_INFER_SHAPE(SumShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(SumTypes));

PD_BUILD_OP(slim_winograd_weights_backward)
    .Inputs({"X", "YGrad"})
    .Outputs({"WGrad"})
    .SetKernelFn(PD_KERNEL(WeightsGradient))
    .SetInferShapeFn(PD_INFER_SHAPE(GradientShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(GradientTypes));
