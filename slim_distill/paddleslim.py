"""PaddleSlim's distillation functions under their names, for programs built by hand. See docs/from_paddleslim.md.

Variables are given by name as in PaddleSlim: a teacher's with its prefix, `l2("teacher_conv2d_6.tmp_1",
"conv2d_20.tmp_1")`. Layers of `paddle.nn` and `paddle.static.nn` carry the names that they always had.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from paddle import static

from slim_distill.common.errors import GraphError
from slim_distill.graph import Freeze, merge_into, name_program, run_passes
from slim_distill.losses import LOSSES

__all__ = ["dkd", "fsp", "l2", "loss", "merge", "skd", "soft_label"]

Value = Any


def merge(
    teacher_program: static.Program,
    student_program: static.Program,
    data_name_map: Mapping[str, str],
    place: Any,
    scope: "static.Scope | None" = None,
    teacher_scope: "static.Scope | None" = None,
    name_prefix: str = "teacher_",
    merge_feed: bool = True,
) -> None:
    """Copy a teacher into a student's program, which is edited, with all its names under a prefix.

    The copy is frozen and in test mode, so the teacher needs no `clone(for_test=True)`. Parameter values are copied
    from the teacher's scope to the student's under the new names.

    Args:
        teacher_program: the teacher; left unchanged.
        student_program: the student, before its optimizer is added.
        data_name_map: teacher feed name -> student feed name.
        place: where the copied parameters live.
        scope: of the student; the global scope when None.
        teacher_scope: of the teacher; `scope` when None.
        name_prefix: put before all names of the teacher.
        merge_feed: False leaves the teacher's feeds apart, under the prefix.

    Raises:
        GraphError: names clash, feeds do not fit, or a teacher's parameter has no value in its scope.
    """
    scope = scope if scope is not None else static.global_scope()
    source = teacher_scope if teacher_scope is not None else scope
    teacher = run_passes(name_program(teacher_program), [Freeze()]).program
    arrays = {}
    for name in teacher.parameters():
        variable = source.find_var(name)
        if variable is None or not variable.get_tensor()._is_initialized():
            raise GraphError(f"the teacher's parameter {name!r} has no value: run its startup program or load it first")
        arrays[name] = np.array(variable.get_tensor())
    merge_into(name_program(student_program), teacher, name_prefix, dict(data_name_map) if merge_feed else {})
    for name, array in arrays.items():
        scope.var(name_prefix + name).get_tensor().set(array, place)


def _look_up(names: list[str], program: "static.Program | None") -> list[Value]:
    named = name_program(program if program is not None else static.default_main_program())
    return [named[name] for name in names]


def l2(teacher_var_name: str, student_var_name: str, program: "static.Program | None" = None) -> Value:
    """Mean of the squared difference of two variables of equal shape; see `slim_distill.losses.l2`."""
    teacher, student = _look_up([teacher_var_name, student_var_name], program)
    return LOSSES["l2"](student, teacher)


def soft_label(
    teacher_var_name: str,
    student_var_name: str,
    program: "static.Program | None" = None,
    teacher_temperature: float = 1.0,
    student_temperature: float = 1.0,
) -> Value:
    """Cross-entropy of the student against the teacher's softmax; see `slim_distill.losses.soft_label`."""
    teacher, student = _look_up([teacher_var_name, student_var_name], program)
    return LOSSES["soft_label"](
        student, teacher, teacher_temperature=teacher_temperature, student_temperature=student_temperature
    )


def fsp(
    teacher_var1_name: str,
    teacher_var2_name: str,
    student_var1_name: str,
    student_var2_name: str,
    program: "static.Program | None" = None,
) -> Value:
    """Mean squared difference of the FSP matrices of two pairs of feature maps; see `slim_distill.losses.fsp`."""
    names = [teacher_var1_name, teacher_var2_name, student_var1_name, student_var2_name]
    t1, t2, s1, s2 = _look_up(names, program)
    return LOSSES["fsp"]((s1, s2), (t1, t2))


def dkd(
    teacher_var_name: str,
    student_var_name: str,
    program: "static.Program | None" = None,
    temperature: float = 1.0,
    alpha: float = 1.0,
    beta: float = 1.0,
) -> Value:
    """Decoupled knowledge distillation with the teacher's best class as target; see `slim_distill.losses.dkd`."""
    teacher, student = _look_up([teacher_var_name, student_var_name], program)
    return LOSSES["dkd"](student, teacher, temperature=temperature, alpha=alpha, beta=beta)


def skd(
    teacher_var_name: str,
    student_var_name: str,
    program: "static.Program | None" = None,
    multiplier: float | None = None,
) -> Value:
    """Spherical knowledge distillation; see `slim_distill.losses.skd`."""
    teacher, student = _look_up([teacher_var_name, student_var_name], program)
    return LOSSES["skd"](student, teacher, multiplier=multiplier)


def loss(loss_func: Callable[..., Value], program: "static.Program | None" = None, **kwargs: Any) -> Value:
    """Call your own function with variables in place of their names: `loss(f, a="teacher_x", b="y")` is f(a=X, b=Y).

    Arguments that are no strings are handed on as they are.
    """
    names = {key: value for key, value in kwargs.items() if isinstance(value, str)}
    values = _look_up(list(names.values()), program)
    return loss_func(**{**kwargs, **dict(zip(names, values, strict=True))})
