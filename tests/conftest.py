"""Fixtures shared by all tests: static mode, fixed seeds, golden numbers."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("GLOG_minloglevel", "2")
# Paddle walks the Python stack for each operator that it adds to a program. Under pytest that is 60 frames and more,
# which takes a quarter to a third of the time of a test that builds programs.
sys.tracebacklimit = 8

SHARED = Path(os.environ.get("SLIM_DISTILL_SHARED", Path(__file__).resolve().parents[1].parent / "shared"))


@pytest.fixture(scope="module", autouse=True)
def dynamic_mode_afterwards() -> Iterator[None]:
    """Commands run inside a test leave Paddle in static mode; the next file's tests start in its usual one."""
    yield
    if "paddle" in sys.modules:
        sys.modules["paddle"].disable_static()


@pytest.fixture
def static_mode() -> Iterator[None]:
    """Paddle in static mode with a scope, a main and a startup program of the test's own; restored afterwards."""
    import paddle
    from paddle import static
    from paddle.utils import unique_name

    was_dynamic = paddle.in_dynamic_mode()
    paddle.enable_static()
    paddle.set_flags({"FLAGS_new_executor_serial_run": True})
    paddle.seed(0)
    with (
        static.scope_guard(static.Scope()),
        static.program_guard(static.Program(), static.Program()),
        unique_name.guard(),
    ):
        yield
    if was_dynamic:
        paddle.disable_static()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Folder of golden numbers; tests that need it are skipped where it is missing."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(f"golden numbers are not at {SHARED / 'golden'}; set SLIM_DISTILL_SHARED to their parent folder")
    return SHARED / "golden"


@pytest.fixture(scope="session")
def bccd() -> Path:
    """Folder of the BCCD photographs; tests that need it are skipped where it is missing."""
    if not (SHARED / "datasets" / "bccd").is_dir():
        pytest.skip(f"BCCD is not at {SHARED / 'datasets' / 'bccd'}; set SLIM_DISTILL_SHARED to its grandparent folder")
    return SHARED / "datasets" / "bccd"


@pytest.fixture(scope="session")
def own_kernels() -> None:
    """Our own kernels, compiled and loaded; tests that need them are skipped where that is not possible."""
    from slim_distill.graph import load_kernels

    why = load_kernels()
    if why:
        pytest.skip(f"own kernels: {why}")
