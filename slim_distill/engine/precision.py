"""In what number types teachers and student compute."""

from collections.abc import Callable

from slim_distill.common.threads import cpu_flags, cpu_model
from slim_distill.graph import NamedProgram, run_passes
from slim_distill.graph.passes import ReducePrecision

__all__ = ["reduced_precision", "trained_in"]

BFLOAT16_FLAGS = frozenset(("avx512_bf16", "amx_bf16"))
"""A CPU with one of these multiplies bfloat16 numbers faster than float32 ones."""


def reduced_precision(wanted: str, *, fused: bool, on_cpu: bool) -> tuple[str, str]:
    """What `compile.teacher_precision` comes to for one teacher: (number type, ""), or ("", why not); ("", "") for off.

    Args:
        wanted: the key's value.
        fused: whether the teacher runs on oneDNN's fused kernels.
        on_cpu: whether the program will run on a CPU.
    """
    if wanted == "float32" or not on_cpu:
        return ("" if wanted == "float32" else wanted), ""
    if wanted != "bfloat16":
        return "", f"a CPU has no kernels for {wanted}"
    if not fused:
        return "", "bfloat16 needs compile.teacher: auto, and a teacher that does not follow the student"
    if not cpu_flags() & BFLOAT16_FLAGS:
        return "", f"this CPU ({cpu_model()}) has neither {' nor '.join(sorted(BFLOAT16_FLAGS))}"
    return wanted, ""


def trained_in(
    wanted: str, program: NamedProgram, *, on_cpu: bool, report: Callable[[str], None] = lambda line: None
) -> NamedProgram:
    """A program that is to train, in the precision of `compile.student_precision`.

    Args:
        wanted: the key's value.
        program: its forward pass.
        on_cpu: whether it will run on a CPU, where Paddle 3.3.1 trains in float32 only.
        report: is told what was done, or why not.
    """
    if wanted == "float32":
        return program
    if on_cpu:
        report(f"compile.student_precision: a CPU does not train in {wanted}; the student stays in float32")
        return program
    result = run_passes(program, [ReducePrecision((), wanted, "gpu")])
    report(f"what trains: {result.summary()}")
    return result.program
