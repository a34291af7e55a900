// Batch norm in training mode with the activation behind it, and the gradient of both, [N, C, H, W] float32.
//
// Both passes take a few channels after the other, so that what the second loop over them reads is still in the cache.
// act(v) = v where v > 0, else slope * v: slope 0 is a ReLU, 1 none. Formulas: Ioffe and Szegedy 2015
// (arXiv:1502.03167); running statistics as Paddle's: running = momentum * running + (1 - momentum) * biased batch's.
#include <algorithm>
#include <cmath>

#include "paddle/phi/api/ext/op_meta_info.h"
#include "paddle/phi/api/include/api.h"

namespace {

using paddle::Tensor;
using paddle::experimental::empty;
using paddle::experimental::empty_like;
using Shape = std::vector<int64_t>;
using Type = paddle::DataType;

constexpr int64_t kMost = 64;          // channels that are taken together
constexpr int64_t kNumbers = 1 << 16;  // of one operand that they hold; 256 KiB

struct Planes {  // of [N, C, H, W]: `count` images of `channels` planes of `size` numbers
  explicit Planes(const Tensor& x) : channels(x.shape()[1]), count(x.shape()[0]) {
    size = channels * count ? x.numel() / (channels * count) : 0;
    block = std::clamp(kNumbers / std::max<int64_t>(1, numbers()), int64_t{1}, kMost);
  }
  int64_t channels, count, size, block;
  int64_t numbers() const { return count * size; }
};

// y = act(scale * x + shift); backward recomputes the sign from the same expression.
struct Affine {
  Affine(float gamma, float beta, float mean, float inverse)
      : scale(gamma * inverse), shift(beta - mean * scale) {}
  float operator()(float x) const { return scale * x + shift; }
  float scale, shift;
};

// totals[k] = the sum of the numbers that term(k)(i) gives for channel first + k, i counting through the whole tensor.
// Planes are added up in float32, their sums in double.
template <typename Term>
void sum(const Planes& planes, int64_t first, int64_t last, double* totals, Term term) {
  std::fill(totals, totals + (last - first), 0.0);
  for (int64_t n = 0; n < planes.count; ++n) {
    for (int64_t c = first; c < last; ++c) {
      const auto number = term(c - first);
      const int64_t start = (n * planes.channels + c) * planes.size;
      float part = 0;
#pragma omp simd reduction(+ : part)
      for (int64_t i = start; i < start + planes.size; ++i) part += number(i);
      totals[c - first] += part;
    }
  }
}

// out[i] = what number(k)(i) gives.
template <typename Number>
void fill(const Planes& planes, int64_t first, int64_t last, float* out, Number number) {
  for (int64_t n = 0; n < planes.count; ++n) {
    for (int64_t c = first; c < last; ++c) {
      const auto value = number(c - first);
      const int64_t start = (n * planes.channels + c) * planes.size;
#pragma omp simd
      for (int64_t i = start; i < start + planes.size; ++i) out[i] = value(i);
    }
  }
}

std::vector<Tensor> Forward(const Tensor& x, Tensor& mean, Tensor& variance, const Tensor& gamma, const Tensor& beta,
                            float momentum, float epsilon, float slope) {
  const Planes planes(x);
  Tensor y = empty_like(x), saved_mean = empty_like(mean), saved_inverse = empty_like(mean);
  const float *in = x.data<float>(), *g = gamma.data<float>(), *b = beta.data<float>();
  float *out = y.data<float>(), *m = mean.data<float>(), *v = variance.data<float>();
  float *sm = saved_mean.data<float>(), *si = saved_inverse.data<float>();
#pragma omp parallel for
  for (int64_t first = 0; first < planes.channels; first += planes.block) {
    const int64_t last = std::min(first + planes.block, planes.channels);
    double totals[kMost];
    sum(planes, first, last, totals, [=](int64_t) { return [=](int64_t i) { return in[i]; }; });
    for (int64_t c = first; c < last; ++c) sm[c] = totals[c - first] / planes.numbers();
    sum(planes, first, last, totals, [=](int64_t k) {
      return [=, centre = sm[first + k]](int64_t i) { return (in[i] - centre) * (in[i] - centre); };
    });
    for (int64_t c = first; c < last; ++c) {
      const float spread = totals[c - first] / planes.numbers();
      si[c] = 1 / std::sqrt(spread + epsilon);
      m[c] = momentum * m[c] + (1 - momentum) * sm[c];
      v[c] = momentum * v[c] + (1 - momentum) * spread;
    }
    fill(planes, first, last, out, [=](int64_t k) {
      const Affine affine(g[first + k], b[first + k], sm[first + k], si[first + k]);
      return [=](int64_t i) {
        const float z = affine(in[i]);
        return z > 0 ? z : slope * z;
      };
    });
  }
  return {y, saved_mean, saved_inverse};
}

std::vector<Tensor> Backward(const Tensor& x, const Tensor& gamma, const Tensor& beta, const Tensor& mean,
                             const Tensor& inverse, const Tensor& of_y, float slope) {
  const Planes planes(x);
  Tensor of_x = empty_like(x), of_gamma = empty_like(gamma), of_beta = empty_like(beta);
  const float *in = x.data<float>(), *dy = of_y.data<float>(), *g = gamma.data<float>(), *b = beta.data<float>();
  const float *m = mean.data<float>(), *s = inverse.data<float>();
  float *dx = of_x.data<float>(), *dg = of_gamma.data<float>(), *db = of_beta.data<float>();
#pragma omp parallel for
  for (int64_t first = 0; first < planes.channels; first += planes.block) {
    const int64_t last = std::min(first + planes.block, planes.channels);
    // The gradient in front of the activation.
    const auto inner = [=](int64_t k) {
      const Affine affine(g[first + k], b[first + k], m[first + k], s[first + k]);
      return [=](int64_t i) { return affine(in[i]) > 0 ? dy[i] : slope * dy[i]; };
    };
    double plain[kMost], moments[kMost];
    sum(planes, first, last, plain, inner);
    sum(planes, first, last, moments, [=](int64_t k) {
      return [=, value = inner(k), centre = m[first + k]](int64_t i) { return value(i) * (in[i] - centre); };
    });
    for (int64_t c = first; c < last; ++c) {
      db[c] = plain[c - first];
      dg[c] = moments[c - first] * s[c];
    }
    fill(planes, first, last, dx, [=](int64_t k) {
      const int64_t c = first + k;
      const float scale = g[c] * s[c], centre = m[c];
      const float along = -scale * s[c] * dg[c] / planes.numbers(), constant = -scale * db[c] / planes.numbers();
      return [=, value = inner(k)](int64_t i) { return scale * value(i) + along * (in[i] - centre) + constant; };
    });
  }
  return {of_x, of_gamma, of_beta};
}

std::vector<Shape> ForwardShapes(const Shape& x, const Shape& mean, const Shape&, const Shape&, const Shape&) {
  return {x, mean, mean};
}
std::vector<Type> ForwardTypes(const Type& x, const Type& mean, const Type&, const Type&, const Type&) {
  return {x, mean, mean};
}
std::vector<Shape> BackwardShapes(const Shape& x, const Shape& gamma, const Shape& beta, const Shape&, const Shape&,
                                  const Shape&) {
  return {x, gamma, beta};
}
std::vector<Type> BackwardTypes(const Type& x, const Type& gamma, const Type& beta, const Type&, const Type&,
                                const Type&) {
  return {x, gamma, beta};
}

}  // namespace

PD_BUILD_OP(slim_batch_norm)
    .Inputs({"X", "Mean", "Variance", "Scale", "Bias"})
    .Outputs({"Y", "SavedMean", "SavedInverse", "MeanOut", "VarianceOut"})
    .SetInplaceMap({{"Mean", "MeanOut"}, {"Variance", "VarianceOut"}})
    .Attrs({"momentum: float", "epsilon: float", "slope: float"})
    .SetKernelFn(PD_KERNEL(Forward))
    .SetInferShapeFn(PD_INFER_SHAPE(ForwardShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(ForwardTypes));

PD_BUILD_OP(slim_batch_norm_backward)
    .Inputs({"X", "Scale", "Bias", "SavedMean", "SavedInverse", "YGrad"})
    .Outputs({"XGrad", "ScaleGrad", "BiasGrad"})
    .Attrs({"slope: float"})
    .SetKernelFn(PD_KERNEL(Backward))
    .SetInferShapeFn(PD_INFER_SHAPE(BackwardShapes))
    .SetInferDtypeFn(PD_INFER_DTYPE(BackwardTypes));
