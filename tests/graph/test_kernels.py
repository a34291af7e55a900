"""Kernels of our own: each against NumPy in double precision, odd shapes included; how they are built and refused."""

import shutil

import numpy as np
import paddle
import pytest

from slim_distill.graph import kernels
from slim_distill.graph.kernels import custom, load_kernels
from tests.graph.nets import relative

pytestmark = pytest.mark.usefixtures("own_kernels")
SAME = 2e-6
MOMENTUM, EPSILON = 0.9, 1e-3


def draw(*shape, seed=0):
    return np.random.RandomState(seed).randn(*shape).astype("float32")


def run(name, arrays, *attributes):
    """Results of one operator as arrays, and its operands, which it may have changed."""
    operands = [paddle.to_tensor(array) for array in arrays]
    return [value.numpy() for value in custom(name, operands, *attributes)], [value.numpy() for value in operands]


def batch_norm(x, gamma, beta, dy, slope):
    """(y, mean, inverse deviation, biased variance, dx, dgamma, dbeta) in double precision."""
    axes = (0, 2, 3)
    x, dy = x.astype("float64"), dy.astype("float64")
    mean, variance = x.mean(axes), x.var(axes)
    inverse = 1 / np.sqrt(variance + EPSILON)
    per_channel = (slice(None), None, None)
    normal = (x - mean[per_channel]) * inverse[per_channel]
    z = gamma[per_channel] * normal + beta[per_channel]
    inner = np.where(z > 0, dy, slope * dy)
    dgamma, dbeta = (inner * normal).sum(axes), inner.sum(axes)
    count = x[:, 0].size
    rest = inner - (dbeta[per_channel] + normal * dgamma[per_channel]) / count
    dx = (gamma * inverse)[per_channel] * rest
    return np.where(z > 0, z, slope * z), mean, inverse, variance, dx, dgamma, dbeta


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 1, 1, 2), (4, 130, 4, 4), (3, 2, 70, 90), (8, 5, 1, 1)])
def test_batch_norm_and_its_gradient(shape, slope):
    x, dy = draw(*shape) * 3 + 2, draw(*shape, seed=1)
    gamma, beta, mean, variance = (draw(shape[1], seed=k) for k in (2, 3, 4, 5))
    y, m, i, v, dx, dgamma, dbeta = batch_norm(x, gamma, beta, dy, slope)
    found, operands = run("batch_norm", [x, mean, variance, gamma, beta], MOMENTUM, EPSILON, slope)
    for got, expected in zip(found[:3], (y, m, i), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * max(1, abs(expected).max()))
    np.testing.assert_allclose(operands[1], MOMENTUM * mean + (1 - MOMENTUM) * m, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(operands[2], MOMENTUM * variance + (1 - MOMENTUM) * v, rtol=1e-5, atol=1e-6)
    gradients, _ = run("batch_norm_backward", [x, gamma, beta, found[1], found[2], dy], slope)
    for got, expected in zip(gradients, (dx, dgamma, dbeta), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5 * max(1, abs(expected).max()))


def test_gradient_of_a_norm_has_no_mean_and_does_not_follow_the_input():
    x, dy = draw(4, 6, 9, 9) + 50, draw(4, 6, 9, 9, seed=1)
    ones, zeros = np.ones(6, "float32"), np.zeros(6, "float32")
    (_, mean, inverse, *_), _ = run("batch_norm", [x, zeros, ones, ones, zeros], MOMENTUM, 0.0, 1.0)
    (dx, *_), _ = run("batch_norm_backward", [x, ones, zeros, mean, inverse, dy], 1.0)
    np.testing.assert_allclose(dx.mean((0, 2, 3)), 0, atol=1e-6)
    np.testing.assert_allclose((dx * (x - 50)).mean((0, 2, 3)), 0, atol=1e-5)


def depthwise(x, w, stride):
    """By its definition, in double precision."""
    framed = np.pad(x.astype("float64"), ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    parts = [
        framed[:, :, j : j + height, i : i + width] * w[:, 0, j, i, None, None] for j in range(3) for i in range(3)
    ]
    return sum(parts)[:, :, ::stride, ::stride]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (1, 1, 1, 1), (2, 5, 8, 6), (1, 2, 1, 4), (3, 17, 33, 18)])
def test_depthwise_convolution_and_its_gradients(shape, stride):
    x, w = draw(*shape), draw(shape[1], 1, 3, 3, seed=1)
    expected = depthwise(x, w, stride)
    (y,), _ = run("depthwise_conv2d", [x, w], stride)
    assert relative(y, expected) < SAME
    dy = draw(*expected.shape, seed=2)
    (dx, dw), _ = run("depthwise_conv2d_backward", [x, w, dy], stride)
    # The convolution is linear in both operands: <dy, f(direction)> = <gradient, direction> for any direction.
    for seed in (3, 4):
        along_x, along_w = draw(*shape, seed=seed), draw(shape[1], 1, 3, 3, seed=seed)
        for gradient, direction, moved in (
            (dx, along_x, depthwise(along_x, w, stride)),
            (dw, along_w, depthwise(x, along_w, stride)),
        ):
            scale = np.abs(gradient * direction).sum() + 1e-6
            assert abs((dy * moved).sum() - (gradient.astype("float64") * direction).sum()) < 1e-5 * scale


def convolution(x, w):
    """3x3, padding 1, by its definition in double precision."""
    framed = np.pad(x.astype("float64"), ((0, 0), (0, 0), (1, 1), (1, 1)))
    height, width = x.shape[2:]
    parts = [
        np.einsum("kc,nchw->nkhw", w[:, :, j, i].astype("float64"), framed[:, :, j : j + height, i : i + width])
        for j in range(3)
        for i in range(3)
    ]
    return sum(parts)


SHAPES = [
    (2, 3, 5, 7, 9),
    (1, 1, 1, 1, 1),
    (3, 17, 33, 8, 6),
    (1, 40, 70, 13, 35),
    (2, 64, 48, 20, 20),
    (5, 16, 16, 4, 4),
]


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_winograd_is_the_convolution_with_what_follows_it(shape, slope):
    n, c, k, height, width = shape
    x, w, bias, other = draw(n, c, height, width), draw(k, c, 3, 3, seed=1), draw(k, seed=2), draw(n, k, height, width)
    expected = convolution(x, w) + bias[:, None, None]
    (u,), _ = run("winograd_weights", [w], False)
    (alone,), _ = run("winograd", [x, u, bias], k, slope)
    (summed,), _ = run("winograd_sum", [x, u, bias, other], k, slope)
    for found, sums in ((alone, expected), (summed, expected + other)):
        assert np.abs(found - np.where(sums > 0, sums, slope * sums)).max() < 4e-6 * np.abs(sums).max()


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_by_winograd_are_those_of_the_convolution(shape):
    n, c, k, height, width = shape
    x, w, dy = draw(n, c, height, width), draw(k, c, 3, 3, seed=1), draw(n, k, height, width, seed=2)
    # That of the input is the convolution with turned kernels, and outputs for inputs.
    expected = convolution(dy, w[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
    (u,), _ = run("winograd_weights", [w], True)
    (dx,), _ = run("winograd", [dy, u, np.zeros(c, "float32")], c, 1.0)
    assert np.abs(dx - expected).max() < 4e-6 * np.abs(expected).max()
    framed = np.pad(x.astype("float64"), ((0, 0), (0, 0), (1, 1), (1, 1)))
    expected = np.zeros(w.shape)
    for j in range(3):
        for i in range(3):
            expected[:, :, j, i] = np.einsum("nkhw,nchw->kc", dy, framed[:, :, j : j + height, i : i + width])
    (dw,), _ = run("winograd_weights_backward", [x, dy])
    assert np.abs(dw - expected).max() < 4e-6 * np.abs(expected).max()


def test_winograd_of_large_maps_in_several_turns():
    """More tiles than are transformed at a time, and more channels than a gradient takes together."""
    x, w = draw(1, 130, 42, 1200), draw(16, 130, 3, 3, seed=1)
    expected = convolution(x, w)
    (u,), _ = run("winograd_weights", [w], False)
    first, again = (run("winograd", [x, u, np.zeros(16, "float32")], 16, 1.0)[0][0] for _ in range(2))
    assert np.abs(first - expected).max() < 4e-6 * np.abs(expected).max()
    np.testing.assert_array_equal(first, again)
    (dw,), _ = run("winograd_weights_backward", [x, expected.astype("float32")])
    # d/dw of |conv(x, w)|^2 / 2, along w itself, is |conv(x, w)|^2.
    assert (dw.astype("float64") * w).sum() == pytest.approx((expected**2).sum(), rel=1e-5)


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("count", [1, 1000, 70_001])
def test_momentum(count, nesterov):
    p, g, v = (draw(count, seed=k) for k in range(3))
    rate, mu, decay = np.float32(0.1), 0.9, 0.01
    _, (new_p, same_g, new_v, _) = run("momentum", [p, g, v, rate], mu, decay, nesterov)
    pull = g + decay * p
    expected = mu * v + pull
    np.testing.assert_allclose(new_v, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(new_p, p - rate * (pull + mu * expected if nesterov else expected), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(same_g, g)


@pytest.fixture
def fresh(monkeypatch, tmp_path):
    """A process that has loaded no kernels, with an empty cache; what would be registered is only listed."""
    monkeypatch.setenv("SLIM_DISTILL_CACHE", str(tmp_path))
    loaded = []
    monkeypatch.setattr(kernels, "load_op_meta_info_and_register_op", loaded.append)
    load_kernels.cache_clear()
    yield loaded
    load_kernels.cache_clear()


def test_they_are_compiled_once_for_a_machine(fresh, tmp_path, monkeypatch):
    assert load_kernels() == ""
    (library,) = (tmp_path / "kernels").glob("*.so")
    written = library.stat().st_mtime_ns
    load_kernels.cache_clear()
    assert load_kernels() == ""
    assert fresh == [str(library)] * 2
    assert library.stat().st_mtime_ns == written
    monkeypatch.setattr(kernels, "cpu_flags", lambda: frozenset({"another"}))
    load_kernels.cache_clear()
    assert load_kernels() == ""
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 2


def test_without_a_compiler_the_reason_names_what_was_looked_for(fresh, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert load_kernels() == "there is no C++ compiler 'no-such-compiler'; install one or set CXX"
    assert fresh == []


def test_a_compiler_that_fails_is_a_reason_and_leaves_nothing_behind(fresh, monkeypatch, tmp_path):
    compiler = tmp_path / "broken"
    compiler.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "x.cc:1: error: no such thing" >&2\nexit 1\n')
    compiler.chmod(0o755)
    monkeypatch.setenv("CXX", str(compiler))
    assert load_kernels() == "they could not be built: broken: x.cc:1: error: no such thing"
    assert not list((tmp_path / "kernels").glob("*.so"))


def test_a_build_of_paddle_without_its_libraries_is_a_reason(fresh, monkeypatch, tmp_path):
    monkeypatch.setattr(paddle.sysconfig, "get_lib", lambda: str(tmp_path))
    assert load_kernels().startswith("this build of Paddle has no libphi.so")


def test_a_cache_that_cannot_be_written_is_a_reason(fresh, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SLIM_DISTILL_CACHE", str(tmp_path / "file"))
    assert load_kernels().startswith("they could not be built: cannot lock")
    assert shutil.which("g++") is not None
