"""Gradients of single losses with respect to the student's parameters, beside those of the total."""

from collections.abc import Sequence
from typing import TypeAlias

import paddle
from paddle import static

from slim_distill.graph import _pir
from slim_distill.graph.program import NamedProgram

__all__ = ["Gradients", "gradients", "norms", "student_parameters"]

Gradients: TypeAlias = list[_pir.Value | None]
"""One for each parameter, None where the loss does not reach it."""


def student_parameters(program: NamedProgram) -> dict[str, _pir.Value]:
    """{name: value} of the host's own parameters that train: not those of guests, nor of layers that terms own."""
    others = (*program.guests, "distill.")
    return {name: value for name, value in program.trainable().items() if not name.startswith(others)}


def gradients(program: NamedProgram, loss: _pir.Value, parameters: Sequence[_pir.Value]) -> Gradients:
    """Append a backward pass of one loss to `program`, the current one, and return the gradients: constants.

    Nothing in that pass takes gradient, so that a later backward pass stops at it.
    """
    if loss.stop_gradient:
        return [None] * len(parameters)
    before = len(_pir.ops(program.main))
    found: Gradients = static.gradients([loss], list(parameters))
    for op in _pir.ops(program.main)[before:]:
        for value in _pir.results(op):
            value.stop_gradient = True
    return found


def norms(*sides: Gradients) -> tuple[_pir.Value, ...]:
    """Euclidean norm of each side over those parameters that all sides reach: scalars, 0 where there are none."""
    shared = [present for present in zip(*sides, strict=True) if all(gradient is not None for gradient in present)]
    if not shared:
        return tuple(paddle.zeros([], "float32") for _ in sides)
    return tuple(
        paddle.sqrt(paddle.add_n([paddle.sum(paddle.square(paddle.cast(g, "float32"))) for g in side]))
        for side in zip(*shared, strict=True)
    )
