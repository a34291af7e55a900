"""One way to check every loss: against numpy in float64, by finite differences, and in the three ways of running."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle
from paddle import static

from slim_distill.losses import Layers

PREFIX = "distill.0."
Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """A loss, inputs and what numpy makes of them.

    student, teacher: one array, or a tuple where the loss takes several. arguments: numbers. tensors: keyword arrays.
    reference: float64 numpy function of the same arguments. It may also ask for `params`, the values of the layers
        that the loss owns, and for `at` and `params_at`, the point of differentiation: what the loss holds constant.
    minimum: value at student = teacher, None where shapes differ or the loss has no such point.
    """

    name: str
    function: Callable[..., Any]
    reference: Callable[..., Any]
    student: Any
    teacher: Any
    arguments: Mapping[str, Any] = field(default_factory=dict)
    tensors: Mapping[str, np.ndarray] = field(default_factory=dict)
    minimum: float | Callable[..., float] | None = 0.0
    owns_layers: bool = False
    seed: int = 7
    sizes_known: bool = False  # the loss pools maps of different sizes, so heights and widths may not be left open

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Result:
    """Value of a loss and gradients of its student and teacher inputs (None where there is none)."""

    value: float
    student: list[np.ndarray | None]
    teacher: list[np.ndarray | None]
    params: dict[str, np.ndarray]
    param_gradients: dict[str, np.ndarray | None]


def as_list(side: Any) -> list[np.ndarray]:
    return [] if side is None else list(side) if isinstance(side, tuple) else [side]


def like(side: Any, values: list[Any]) -> Any:
    return tuple(values) if isinstance(side, tuple) else values[0]


def call(case: Case, student: list[Any], teacher: list[Any], tensors: dict[str, Any], layers: Layers) -> Any:
    sides = {"student": like(case.student, student)}
    if case.teacher is not None:
        sides["teacher"] = like(case.teacher, teacher)
    owned = {"layers": layers} if case.owns_layers else {}
    return case.function(**sides, **tensors, **case.arguments, **owned)


def _cast(array: np.ndarray, dtype: str) -> np.ndarray:
    return array.astype(dtype) if array.dtype.kind == "f" else array


def run_eager(case: Case, dtype: str = "float64", params: Values | None = None) -> Result:
    paddle.seed(case.seed)
    student, teacher = (
        [paddle.to_tensor(_cast(a, dtype), stop_gradient=False) for a in as_list(side)]
        for side in (case.student, case.teacher)
    )
    tensors = {name: paddle.to_tensor(_cast(a, dtype)) for name, a in case.tensors.items()}
    layers = Layers(PREFIX)
    if case.owns_layers:
        call(case, student, teacher, tensors, layers)  # creates the parameters
        set_eager(layers, params if params is not None else random_params(layers.parameters))
        paddle.seed(case.seed)
    before = {name: np.array(value.numpy()) for name, value in layers.parameters.items()}
    loss = call(case, student, teacher, tensors, layers)
    assert list(loss.shape) == []
    loss.backward()
    student_gradients, teacher_gradients = ([gradient(x) for x in side] for side in (student, teacher))
    param_gradients = {name: gradient(layers.parameters[name]) for name in layers.trainable}
    return Result(float(loss), student_gradients, teacher_gradients, before, param_gradients)


def random_params(parameters: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Values that leave nothing at a special point: weights that start at zero would hide wrong gradients."""
    rng = np.random.default_rng(5)
    return {
        name: np.abs(rng.normal(0, 0.3, value.shape)) + 0.5
        if name.endswith(("variance", "scale")) or ".constant" in name
        else rng.normal(0, 0.3, value.shape)
        for name, value in parameters.items()
    }


def set_eager(layers: Layers, values: Mapping[str, np.ndarray]) -> None:
    for name, value in layers.parameters.items():
        value.set_value(values[name].astype(str(value.dtype).rsplit(".", 1)[-1]))


def gradient(x: Any) -> np.ndarray | None:
    return None if x.grad is None else np.array(x.grad.numpy(), "float64")


def run_static(case: Case, *, open_axes: tuple[int, ...], params: Values, dtype: str = "float32") -> Result:
    """Run the loss as a program; `open_axes` are dynamic axes (2 and 3 of maps only). Needs the fixture static_mode."""
    main, startup, feed = static.Program(), static.Program(), {}
    layers = Layers(PREFIX)

    def data(name: str, array: np.ndarray) -> Any:
        array = feed[name] = _cast(array, dtype)
        shape = [None if i in open_axes and (i == 0 or array.ndim > 3) else s for i, s in enumerate(array.shape)]
        return static.data(name, shape, str(array.dtype))

    with static.scope_guard(static.Scope()), static.program_guard(main, startup):
        sides = [
            [data(f"{label}{i}", a) for i, a in enumerate(as_list(side))]
            for label, side in (("s", case.student), ("t", case.teacher))
        ]
        for value in sides[0] + sides[1]:
            value.stop_gradient = False
        tensors = {name: data(name, a) for name, a in case.tensors.items()}
        loss = call(case, *sides, tensors, layers)
        assert list(loss.shape) == []
        trainable = [layers.parameters[name] for name in layers.trainable]
        gradients = static.gradients([loss], sides[0] + sides[1] + trainable)
        executor = static.Executor(paddle.CPUPlace())
        executor.run(startup)
        for name, value in params.items():
            tensor = static.global_scope().find_var(name).get_tensor()
            tensor.set(value.astype(dtype), paddle.CPUPlace())
        present = [g for g in gradients if g is not None]
        paddle.seed(case.seed)
        fetched = executor.run(main, feed=feed, fetch_list=[loss, *present])
    assert len(fetched) == 1 + len(present)
    arrays = iter(fetched[1:])
    found = [None if g is None else np.array(next(arrays), "float64") for g in gradients]
    s, t = len(sides[0]), len(sides[1])
    param_gradients = dict(zip(layers.trainable, found[s + t :], strict=True))
    return Result(float(fetched[0]), found[:s], found[s : s + t], dict(params), param_gradients)


def reference_value(case: Case, student: list[np.ndarray], params: Values, params_at: Values) -> float:
    student, teacher = ([_cast(a, "float64") for a in side] for side in (student, as_list(case.teacher)))
    sides = {"student": like(case.student, student)}
    if case.teacher is not None:
        sides["teacher"] = like(case.teacher, teacher)
    tensors = {name: _cast(a, "float64") for name, a in case.tensors.items()}
    extra = {
        "params": {name.removeprefix(PREFIX): np.asarray(v, "float64") for name, v in params.items()},
        "params_at": {name.removeprefix(PREFIX): np.asarray(v, "float64") for name, v in params_at.items()},
        "at": like(case.student, [_cast(a, "float64") for a in as_list(case.student)]),
    }
    wanted = inspect.signature(case.reference).parameters
    extra = {name: value for name, value in extra.items() if name in wanted}
    return float(case.reference(**sides, **tensors, **case.arguments, **extra))


def check_value_and_gradient(case: Case, samples: int = 6, step: float = 1e-5) -> None:
    """Value to 1e-5; gradients of inputs and parameters, to 1e-3 of the largest, by central differences of numpy."""
    got = run_eager(case)
    student = [_cast(a, "float64") for a in as_list(case.student)]
    np.testing.assert_allclose(got.value, reference_value(case, student, got.params, got.params), rtol=1e-5, atol=1e-12)

    def compare(
        actual: np.ndarray | None, array: np.ndarray, evaluate: Callable[[np.ndarray], float], what: str
    ) -> None:
        rng = np.random.default_rng(11)
        places = rng.choice(array.size, min(samples, array.size), replace=False)
        actual = np.zeros_like(array) if actual is None else actual
        for place in places:
            moved = [array.copy() for _ in range(2)]
            for copy, sign in zip(moved, (1, -1), strict=True):
                copy.reshape(-1)[place] += sign * step
            expected = (evaluate(moved[0]) - evaluate(moved[1])) / (2 * step)
            scale = max(np.abs(actual).max(), abs(expected), 1e-7)
            error = abs(actual.reshape(-1)[place] - expected)
            assert error <= 1e-3 * scale, f"{what}[{place}]: {actual.reshape(-1)[place]} against {expected}"

    for k, array in enumerate(student):
        compare(
            got.student[k],
            array,
            lambda a, k=k: reference_value(case, [*student[:k], a, *student[k + 1 :]], got.params, got.params),
            f"d loss / d student[{k}]",
        )
    for name, actual in got.param_gradients.items():
        compare(
            actual,
            got.params[name],
            lambda a, name=name: reference_value(case, student, {**got.params, name: a}, got.params),
            f"d loss / d {name}",
        )


def check_teacher_gets_no_gradient(case: Case) -> None:
    got = run_eager(case)
    assert all(g is None for g in got.teacher)
    assert any(g is not None and np.abs(g).max() > 0 for g in got.student)


def has_maps(case: Case) -> bool:
    return any(array.ndim > 3 for array in as_list(case.student))


def check_static_modes(case: Case, eager: Result) -> None:
    """Programs of fixed batch, open batch and open image size agree with the eager run, to 2e-5 of the largest."""
    ways: list[tuple[int, ...]] = [(), (0,)]
    if has_maps(case) and not case.sizes_known:
        ways.append((0, 2, 3))
    for open_axes in ways:
        got = run_static(case, open_axes=open_axes, params=eager.params)
        np.testing.assert_allclose(got.value, eager.value, rtol=2e-5, atol=1e-7)
        assert all(g is None for g in got.teacher)
        for name, ours, theirs in [
            *((f"student[{i}]", a, b) for i, (a, b) in enumerate(zip(got.student, eager.student, strict=True))),
            *((name, got.param_gradients[name], g) for name, g in eager.param_gradients.items()),
        ]:
            assert (ours is None or not ours.any()) == (theirs is None or not theirs.any()), name
            if ours is not None and theirs is not None:
                np.testing.assert_allclose(
                    ours, theirs, rtol=0, atol=2e-5 * max(np.abs(theirs).max(), 1e-6), err_msg=name
                )


def check_minimum(case: Case) -> None:
    """At student = teacher the loss has its stated least value, and no nearby student does better."""
    if case.minimum is None:
        return
    at = Case(**{**case.__dict__, "student": case.teacher})
    value = run_eager(at).value
    expected = case.minimum
    if callable(expected):
        expected = expected(case.teacher, **case.tensors, **case.arguments)
    np.testing.assert_allclose(value, expected, rtol=1e-6, atol=1e-10)
    rng = np.random.default_rng(3)
    near = like(case.teacher, [a + 0.05 * rng.normal(size=a.shape) for a in as_list(case.teacher)])
    assert run_eager(Case(**{**case.__dict__, "student": near})).value >= value - 1e-10
