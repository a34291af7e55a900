"""Kernels of our own for CPUs: the C++ files in this folder, compiled for this machine when they are first needed."""

import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import static
from paddle.utils.cpp_extension.extension_utils import load_op_meta_info_and_register_op

from slim_distill.common.errors import SlimDistillError
from slim_distill.common.files import atomic_write, cache_folder, file_lock
from slim_distill.common.threads import cpu_flags

__all__ = ["PREFIX", "compute", "custom", "load_kernels"]

log = logging.getLogger(__name__)

PREFIX = "slim_"
"""Start of the names of our operators."""

_LIBRARIES = ("libphi.so", "libphi_core.so", "libcommon.so", "libiomp5.so")
_OPTIONS = ("-std=c++17", "-O3", "-march=native", "-fopenmp", "-fPIC", "-Wl,--as-needed")
_PATIENCE_S = 300.0


@functools.cache
def load_kernels() -> str:
    """Compile the kernels, unless the cache folder has them for this machine, and make their operators known to Paddle.

    That takes 4 to 15 seconds, once. The kernels share Paddle's pool of OpenMP threads.

    Returns:
        "" when they can be used from now on, else the reason why not, in a few words.
    """
    compiler = shutil.which(os.environ.get("CXX") or "g++")
    if platform.system() != "Linux":
        return f"they are built on Linux only, not on {platform.system()}"
    if compiler is None:
        return f"there is no C++ compiler {os.environ.get('CXX') or 'g++'!r}; install one or set CXX"
    libraries = [Path(paddle.sysconfig.get_lib()) / name for name in _LIBRARIES]
    missing = [library.name for library in libraries if not library.is_file()]
    if missing:
        return f"this build of Paddle has no {', '.join(missing)}"
    try:
        load_op_meta_info_and_register_op(str(_library(compiler, libraries)))
    except (SlimDistillError, OSError, RuntimeError, subprocess.SubprocessError) as error:
        return f"they could not be built: {error}"
    return ""


def _library(compiler: str, libraries: Sequence[Path]) -> Path:
    """Path of the compiled kernels, which are compiled now where the cache has none for this machine.

    Raises:
        SlimDistillError, OSError: the cache folder cannot be written.
        subprocess.SubprocessError: the compiler failed.
    """
    folder = Path(__file__).parent
    sources = sorted(folder.glob("*.cc"))
    command = [compiler, *_OPTIONS, f"-I{paddle.sysconfig.get_include()}"]
    command += [f"-I{paddle.sysconfig.get_include()}/third_party", *map(str, sources), "-shared"]
    version = subprocess.run([compiler, "--version"], check=True, capture_output=True, timeout=_PATIENCE_S).stdout  # nosec B603 # the user's compiler
    parts = (
        *(path.read_bytes() for path in [*sources, *sorted(folder.glob("*.h"))]),
        version,
        *map(str.encode, command),
    )
    parts += (paddle.__version__.encode(), " ".join(sorted(cpu_flags())).encode())
    digest = hashlib.sha256(b"\0".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()[:16]
    path = cache_folder().absolute() / "kernels" / f"{digest}.so"
    with file_lock(path.with_suffix(".lock")):
        if not path.is_file():
            log.info("compiling kernels, once for this machine")
            with atomic_write(path) as handle:
                command += ["-o", handle.name, *map(str, libraries)]
                _run(command)
    return path


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)  # nosec B603 # the user's compiler
    if done.returncode:
        log.debug("%s: %s", " ".join(command), done.stderr)
        said = next((line for line in done.stderr.splitlines() if "error" in line), f"exit code {done.returncode}")
        raise SlimDistillError(f"{Path(command[0]).name}: {said}")


def custom(name: str, operands: Sequence[Any], *attributes: object) -> list[Any]:
    """Results of one of our operators, appended to the current program, or computed in dynamic mode.

    Call `load_kernels` first.

    Args:
        name: as in `PD_BUILD_OP`, without `PREFIX`.
        operands: values, or tensors, in the order of its `Inputs`.
        attributes: in the order of its `Attrs`.
    """
    results = paddle._C_ops._run_custom_op(PREFIX + name, *operands, *attributes)
    return list(results) if isinstance(results, (list, tuple)) else [results]


def compute(name: str, arrays: Sequence[np.ndarray], *attributes: object) -> list[np.ndarray]:
    """The first result of one of our operators for each of these arrays, its only operand, in static mode."""
    executor = static.Executor(paddle.CPUPlace())
    built: dict[tuple[int, ...], tuple[static.Program, Any]] = {}
    results = []
    for array in arrays:
        if array.shape not in built:
            program = static.Program()
            with static.program_guard(program):
                operand = static.data("operand", list(array.shape), str(array.dtype))
                built[array.shape] = program, custom(name, [operand], *attributes)[0]
        program, result = built[array.shape]
        results += executor.run(program, feed={"operand": array}, fetch_list=[result])
    return results
