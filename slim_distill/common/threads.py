"""Threads, instruction set and memory of the numeric libraries, set before Paddle is loaded. No Paddle here."""

import ctypes
import math
import os
import platform
import re
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

from slim_distill.common.errors import ConfigError

__all__ = ["THREAD_VARIABLES", "available_cores", "configure_threads", "cpu_flags", "cpu_model", "has_avx512"]

_CGROUP_V2 = Path("/sys/fs/cgroup/cpu.max")
_CGROUP_V1 = Path("/sys/fs/cgroup/cpu")
_CPUINFO = Path("/proc/cpuinfo")
# Paddle's wheel sets OMP_NUM_THREADS=1 when it is not set; its GEMM library needs its own variable besides.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_AVX512 = {"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"}
# The GEMM library in Paddle's wheel (MKL 2019) uses its SSE code on every CPU whose vendor is not Intel, unless it is
# told which code to use. 7 is AVX-512 (all five feature sets of Skylake-SP), 5 is AVX2. On a 2-core AMD EPYC this
# makes sgemm 2.5 times faster a core. Newer versions of the library ignore the variable.
_MKL_CODE_PATHS = (
    ("7", "AVX-512", _AVX512),
    ("5", "AVX2", {"avx2", "fma"}),
)
_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
_HUGE_PAGE = 2 << 20
_MADV_HUGEPAGE = 14
# Numbers of glibc's mallopt.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -2, -4, -8
_MALLOC_VARIABLES = (
    "MALLOC_ARENA_MAX", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES",
)  # fmt: skip


def available_cores() -> int:
    """How many cores this process may use: its CPU affinity, cut by the quota of its control group; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    # A quota of 1.5 cores is served better by 2 threads than by 1.
    return max(1, cores if quota is None else min(cores, math.ceil(quota)))


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        names = [line.partition(":")[2] for line in _CPUINFO.read_text().splitlines() if line.startswith("model name")]
    except OSError:
        names = []
    return names[0].strip() if names else platform.processor() or platform.machine()


def cpu_flags() -> frozenset[str]:
    """Instruction sets of the processor by the system's names, such as "avx512_bf16"; empty where it names none."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return frozenset()
    return frozenset(next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), ()))


def has_avx512() -> bool:
    """Whether the numeric libraries use AVX-512 on this processor: it has all they ask for, the five sets of 2017."""
    return cpu_flags() >= _AVX512


def configure_threads(environ: MutableMapping[str, str] | None = None) -> str:
    """Choose threads, CPU code path and memory handling of Paddle's numeric libraries. Call before loading Paddle.

    1. OMP_NUM_THREADS and MKL_NUM_THREADS become the number of cores this process may use, divided among the processes
       that a launcher started on this machine; if the user set one of them, the other follows it.
    2. Freed memory is kept for the next step rather than given back to the system, which would have to clear it again
       page by page: 10 % of a merged YOLOv3 step; huge pages save another 5 %. The largest amount in use at once
       stays the same. All threads share one heap. Only with glibc, and not where the user tuned its malloc.
    3. On an x86 CPU that is not Intel's, MKL_DEBUG_CPU_TYPE becomes the widest code path the CPU can run.

    What is set already is never changed. Child processes inherit these variables.

    Args:
        environ: the variables to read and set; those of this process by default.

    Returns:
        What was done, one line for the log.

    Raises:
        ConfigError: one of the two is set to something that is no number of threads; the libraries would take another
            one without a word.
    """
    env = os.environ if environ is None else environ
    for name in THREAD_VARIABLES:
        # OpenMP takes a list too: a number for each level of nested loops.
        if re.fullmatch(r" *0*[1-9][0-9]{0,3} *(, *[0-9]+ *)*", env.get(name, "1")) is None:
            raise ConfigError(
                f"{name}: must be a number of threads, 1 to 9999, found {env[name]!r:.40}; unset it to use every core"
            )
    shown = ", ".join(f"{name}={env[name]}" for name in THREAD_VARIABLES if name in env) or "no thread variable set"
    if "paddle" in sys.modules:
        return f"threads: Paddle was loaded before, so the settings stay as they are ({shown})"
    told = env.get("PADDLE_LOCAL_SIZE", "1")  # what a launcher says; a wrong one is reported when ranks connect
    local = int(told) if told.isdigit() and int(told) else 1
    cores = max(1, available_cores() // local)
    # Paddle's launcher hands on the 1 that its own import has set; who wants that number sets both.
    inherited = local > 1 and env.get("OMP_NUM_THREADS") == "1" and "MKL_NUM_THREADS" not in env
    own = [env[name] for name in THREAD_VARIABLES if name in env and not inherited]
    done = []
    for name in THREAD_VARIABLES:
        if name not in env or inherited:
            env[name] = own[0] if own else str(cores)
            done.append(f"{name}={env[name]}")
    if "MKL_DEBUG_CPU_TYPE" not in env:
        path = _mkl_code_path()
        if path is not None:
            env["MKL_DEBUG_CPU_TYPE"] = path[0]
            done.append(f"MKL_DEBUG_CPU_TYPE={path[0]} ({path[1]})")
    malloc = _tune_malloc(env)
    if malloc:
        done.append(malloc)
    kept = f"; kept as set: {shown}" if own else ""
    return f"threads: {cores} cores usable; set {', '.join(done) or 'nothing'}{kept}"


def _tune_malloc(env: Mapping[str, str]) -> str:
    """Make malloc keep what is freed, on huge pages where the system has them: what was done, or ""."""
    if platform.libc_ver()[0] != "glibc" or any(name in env for name in _MALLOC_VARIABLES):
        return ""
    libc = ctypes.CDLL(None)
    # No memory map of its own for a large tensor, no trimming of the heap, and growth by 64 MiB at a time; one heap for
    # all threads, so that what one of them frees serves the others.
    options = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, -1), (_M_TOP_PAD, 64 << 20), (_M_ARENA_MAX, 1))
    if not all(libc.mallopt(number, value) == 1 for number, value in options):
        return ""
    return "malloc keeps freed memory" + (" on huge pages" if _reserve_huge_pages(libc) else "")


def _reserve_huge_pages(libc: ctypes.CDLL) -> bool:
    """Extend the heap by addresses that the kernel may back with huge pages once they are used.

    Nothing is used yet: the block is given back to malloc untouched, and because the heap is not trimmed its
    addresses stay. So only the address space grows.
    """
    try:
        if "[never]" in _HUGE_PAGES.read_text():
            return False
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return False
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    libc.free.argtypes = [ctypes.c_void_p]
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = memory // 2
    block = libc.malloc(size)
    if block is None:
        return False
    start = -(-block // _HUGE_PAGE) * _HUGE_PAGE
    advised = libc.madvise(start, block + size - start, _MADV_HUGEPAGE) == 0
    libc.free(block)
    return advised


def _quota() -> float | None:
    """Cores' worth of time that the control group allows, or None for no limit."""
    try:
        if _CGROUP_V2.is_file():
            limit, period = _CGROUP_V2.read_text().split()
            return None if limit == "max" else int(limit) / int(period)
        if (_CGROUP_V1 / "cpu.cfs_quota_us").is_file():
            quota_us = int((_CGROUP_V1 / "cpu.cfs_quota_us").read_text())
            period_us = int((_CGROUP_V1 / "cpu.cfs_period_us").read_text())
            return None if quota_us <= 0 else quota_us / period_us
    except (OSError, ValueError):
        # An unreadable limit is no limit: the affinity mask still holds.
        return None
    return None


def _mkl_code_path() -> tuple[str, str] | None:
    """(value of MKL_DEBUG_CPU_TYPE, its meaning) for an x86 CPU of another maker than Intel, else None."""
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return None
    first = [line.partition(":") for line in text.split("\n\n")[0].splitlines()]
    facts = {key.strip(): value.strip() for key, _, value in first}
    if facts.get("vendor_id", "GenuineIntel") == "GenuineIntel":
        return None
    flags = cpu_flags()
    return next(((value, meaning) for value, meaning, needed in _MKL_CODE_PATHS if needed <= flags), None)
