"""Small networks with every layer of the published detectors, and how to run them."""

import numpy as np
import paddle
import pytest
from paddle import static
from paddle.nn import functional as F

from slim_distill.common.specs import FeedSpec, ModelSpec
from slim_distill.common.threads import has_avx512
from slim_distill.graph import NamedProgram, trace

SIZE = 16

runs_bfloat16 = pytest.mark.skipif(
    not has_avx512(), reason="oneDNN computes bfloat16 convolutions only on CPUs with AVX-512"
)


def image(batch=3, size=SIZE, seed=0):
    """A batch [N, 4, size, size]."""
    return np.random.RandomState(seed).randn(batch, 4, size, size).astype("float32")


def parameter(name, shape, low=-0.4, high=0.4, trainable=True):
    init = paddle.nn.initializer.Uniform(low, high)
    attr = paddle.ParamAttr(name=name, initializer=init, trainable=trainable)
    created = static.create_parameter(shape, "float32", attr=attr)
    created.stop_gradient = not trainable
    return created


def conv(x, name, channels, kernel=3, *, stride=1, groups=1, bias=False):
    """Convolution of weight NAME.weights and, reshaped for broadcasting as in the detectors, NAME.bias."""
    w = parameter(f"{name}.weights", [channels, x.shape[1] // groups, kernel, kernel])
    y = F.conv2d(x, w, stride=stride, padding=kernel // 2, groups=groups)
    return y + paddle.reshape(parameter(f"{name}.bias", [channels]), [1, channels, 1, 1]) if bias else y


def norm(x, name, *, training):
    """Batch norm whose statistics are far from 0 and 1."""
    size = [x.shape[1]]
    return F.batch_norm(
        x,
        parameter(f"{name}.mean", size, 0.1, 0.5, trainable=False),
        parameter(f"{name}.var", size, 0.5, 2.0, trainable=False),
        parameter(f"{name}.scale", size, 0.5, 1.5),
        parameter(f"{name}.offset", size, -0.3, 0.3),
        training=training,
    )


def detector(x, *, training):
    """Stem, depthwise and pointwise convolutions, residual sum, pooling, upsampling, concatenation, head with bias."""
    stem = F.relu(norm(conv(x, "stem", 8), "stem.bn", training=training))
    deep = F.relu(norm(conv(stem, "deep", 8, groups=8), "deep.bn", training=training))
    wide = norm(conv(deep, "wide", 8, 1, bias=True), "wide.bn", training=training)
    joined = F.relu(wide + stem)
    small = F.max_pool2d(joined, 3, stride=2, padding=1)
    dark = F.leaky_relu(norm(conv(small, "dark", 12), "dark.bn", training=training), 0.1)
    up = F.interpolate(dark, scale_factor=2, mode="nearest")
    both = paddle.concat([up, joined], axis=1)
    neck = F.leaky_relu(norm(conv(both, "neck", 10), "neck.bn", training=training), 0.1)
    head = conv(neck, "head", 6, 1, bias=True)
    return {"head": head, "small": small, "neck": neck, "dark": dark}


def traced(build, *, size=None, batch=None, training=False) -> NamedProgram:
    """Trace `build(image, training=...)`; sizes that are None are dynamic."""
    feeds = {"image": FeedSpec((batch, 4, size, size))}
    return trace(ModelSpec(feeds, lambda values: build(values["image"], training=training)))


def with_random_values(program: NamedProgram, seed=0) -> NamedProgram:
    """The program with a known value for every parameter: what its startup program computes for a seed."""
    paddle.seed(seed)
    scope = static.Scope()
    with static.scope_guard(scope):
        static.Executor(paddle.CPUPlace()).run(program.startup)
    return program.with_values({n: np.array(scope.find_var(n).get_tensor()) for n in program.parameters()})


class Runner:
    """Runs a program again and again in a scope of its own."""

    def __init__(self, program: NamedProgram, seed=0):
        self.program = program
        self.scope = static.Scope()
        self.executor = static.Executor(paddle.CPUPlace())
        paddle.seed(seed)
        with static.scope_guard(self.scope):
            self.executor.run(program.startup)
        self.write(program.values)

    def write(self, arrays):
        for name, array in arrays.items():
            self.scope.var(name).get_tensor().set(array, paddle.CPUPlace())

    def read(self):
        return {n: np.array(self.scope.find_var(n).get_tensor()) for n in self.program.parameters()}

    def __call__(self, x, *fetch):
        values = [self.program[name] for name in fetch]
        with static.scope_guard(self.scope):
            return self.executor.run(self.program.main, feed={"image": x}, fetch_list=values)


def relative(a, b):
    """Largest difference, relative to the largest entry of `b`."""
    return float(np.abs(a - b).max() / np.abs(b).max())


def op_names(program: NamedProgram):
    return [op.name() for op in program.main.global_block().ops]
