"""Threads, code path and memory: set from what the process may use, never against the user."""

import subprocess
import sys

import pytest

from slim_distill.common import threads
from slim_distill.common.threads import available_cores, configure_threads, has_avx512

AMD = "processor\t: 0\nvendor_id\t: AuthenticAMD\nflags\t\t: fpu avx2 fma {more}\n\nprocessor\t: 1\n"
AVX512 = "avx512f avx512cd avx512bw avx512dq avx512vl"


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine of the test's own: `machine(cores=..., cpu_max=..., cpuinfo=...)`; Paddle counts as not loaded."""

    def make(cores=8, cpu_max=None, cpuinfo="vendor_id\t: GenuineIntel\nflags\t: avx2 fma\n", quota_us=None):
        monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)), raising=False)
        v2, v1, info = tmp_path / "cpu.max", tmp_path / "v1", tmp_path / "cpuinfo"
        if cpu_max is not None:
            v2.write_text(cpu_max)
        if quota_us is not None:
            v1.mkdir()
            (v1 / "cpu.cfs_quota_us").write_text(f"{quota_us}\n")
            (v1 / "cpu.cfs_period_us").write_text("100000\n")
        info.write_text(cpuinfo)
        monkeypatch.setattr(threads, "_CGROUP_V2", v2)
        monkeypatch.setattr(threads, "_CGROUP_V1", v1)
        monkeypatch.setattr(threads, "_CPUINFO", info)
        monkeypatch.setattr(threads, "_tune_malloc", lambda env: "")
        monkeypatch.delitem(sys.modules, "paddle", raising=False)

    return make


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({"cores": 6}, 6),
        ({"cores": 6, "cpu_max": "max 100000"}, 6),
        ({"cores": 6, "cpu_max": "150000 100000"}, 2),
        ({"cores": 1, "cpu_max": "400000 100000"}, 1),
        ({"cores": 6, "cpu_max": "10000 100000"}, 1),
        ({"cores": 6, "cpu_max": "broken"}, 6),
        ({"cores": 6, "quota_us": 300000}, 3),
        ({"cores": 6, "quota_us": -1}, 6),
    ],
)
def test_cores_are_what_affinity_and_quota_leave(machine, limits, cores):
    machine(**limits)
    assert available_cores() == cores


def test_sets_threads_of_both_libraries(machine):
    machine(cores=4)
    env = {}
    line = configure_threads(env)
    assert env == {"OMP_NUM_THREADS": "4", "MKL_NUM_THREADS": "4"}
    assert line == "threads: 4 cores usable; set OMP_NUM_THREADS=4, MKL_NUM_THREADS=4"


def test_what_the_user_set_stays_and_the_other_variable_follows_it(machine):
    machine(cores=4)
    env = {"OMP_NUM_THREADS": "3"}
    line = configure_threads(env)
    assert env == {"OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3"}
    assert line.endswith("set MKL_NUM_THREADS=3; kept as set: OMP_NUM_THREADS=3")
    before = dict(env)
    assert "set nothing" in configure_threads(env)
    assert env == before


@pytest.mark.parametrize(("more", "path"), [(AVX512, "7"), ("avx512f avx512cd", "5"), ("", "5")])
def test_the_matrix_library_is_told_what_a_cpu_of_another_maker_can_do(machine, more, path):
    machine(cpuinfo=AMD.format(more=more))
    env = {}
    configure_threads(env)
    assert env["MKL_DEBUG_CPU_TYPE"] == path
    assert has_avx512() == (path == "7")


@pytest.mark.parametrize("cpuinfo", ["vendor_id\t: AuthenticAMD\nflags\t: sse2\n", "CPU implementer : 0x41\n", ""])
def test_no_code_path_is_forced_on_other_cpus(machine, cpuinfo):
    machine(cpuinfo=cpuinfo)
    env = {}
    configure_threads(env)
    assert "MKL_DEBUG_CPU_TYPE" not in env
    assert not has_avx512()


def test_a_code_path_of_the_user_stays(machine):
    machine(cpuinfo=AMD.format(more=AVX512))
    env = {"MKL_DEBUG_CPU_TYPE": "5"}
    configure_threads(env)
    assert env["MKL_DEBUG_CPU_TYPE"] == "5"


def test_too_late_after_paddle_was_loaded(machine, monkeypatch):
    machine()
    monkeypatch.setitem(sys.modules, "paddle", object())
    env = {"OMP_NUM_THREADS": "1"}
    assert configure_threads(env) == (
        "threads: Paddle was loaded before, so the settings stay as they are (OMP_NUM_THREADS=1)"
    )
    assert env == {"OMP_NUM_THREADS": "1"}


def test_malloc_of_the_user_stays():
    assert threads._tune_malloc({"MALLOC_TRIM_THRESHOLD_": "1"}) == ""


def test_the_module_loads_without_paddle():
    code = "import sys, slim_distill.common.threads as t; t.configure_threads({}); assert 'paddle' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
