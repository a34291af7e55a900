"""In what number type frozen teachers compute."""

from slim_distill.common.threads import cpu_flags, cpu_model

__all__ = ["reduced_precision"]

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
