// SGD with momentum on all threads, in place: v <- mu v + g + decay p, then p <- p - rate v, or with Nesterov's step
// p <- p - rate (g + decay p + mu v). As Paddle's momentum operator (Sutskever et al. 2013).
#include "paddle/phi/api/ext/op_meta_info.h"

namespace {

using paddle::Tensor;

constexpr int64_t kAlone = 1 << 15;  // numbers up to which one thread is faster

void Update(Tensor& parameter, const Tensor& gradient, Tensor& velocity, const Tensor& rate, float mu, float decay,
            bool nesterov) {
  float *p = parameter.data<float>(), *v = velocity.data<float>();
  const float *g = gradient.data<float>(), step = *rate.data<float>();
  const int64_t count = parameter.numel();
#pragma omp parallel for simd if (count > kAlone)
  for (int64_t i = 0; i < count; ++i) {
    const float pull = g[i] + decay * p[i];
    v[i] = mu * v[i] + pull;
    p[i] -= step * (nesterov ? pull + mu * v[i] : v[i]);
  }
}

}  // namespace

PD_BUILD_OP(slim_momentum)
    .Inputs({"Parameter", "Gradient", "Velocity", "Rate"})
    .Outputs({"ParameterOut", "VelocityOut"})
    .SetInplaceMap({{"Parameter", "ParameterOut"}, {"Velocity", "VelocityOut"}})
    .Attrs({"mu: float", "decay: float", "nesterov: bool"})
    .SetKernelFn(PD_KERNEL(Update));
