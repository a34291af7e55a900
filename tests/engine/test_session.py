"""A session runs what it is asked for, and gives its memory back: Paddle keeps scopes for ever, executors in cycles."""

import gc
import weakref

import numpy as np
import pytest

from slim_distill.config import load_config
from slim_distill.engine import build
from slim_distill.engine.session import Session
from slim_distill.graph import parameters
from tests.graph.nets import traced
from tests.tiny import run_config, write_config, write_voc

pytestmark = pytest.mark.usefixtures("static_mode")


def test_a_session_that_ends_empties_its_scope():
    session = Session("cpu")
    session.write({"weights": np.zeros((4, 4), "float32")})
    scope = session._scope
    assert scope.local_var_names() == ["weights"]
    del session
    gc.collect()
    assert scope.local_var_names() == []


def test_an_evaluation_leaves_neither_parameters_nor_executor(tmp_path, monkeypatch):
    data = write_voc(tmp_path / "data", train=1, test=3)
    cfg = load_config(write_config(tmp_path / "run.yml", run_config(data, tmp_path / "out")))
    made = build.build_detector
    scopes, executors = [], []

    def noted(*args):
        detector = made(*args)
        scopes.append(detector.session._scope)
        executors.append(weakref.ref(detector.session._executor))
        return detector

    monkeypatch.setattr(build, "build_detector", noted)
    program = build.build_student(cfg)
    values = {name: np.zeros(v.shape, "float32") for name, v in parameters(program.main).items()}
    loader = build.build_eval_loader(cfg)
    first, second = (build.evaluate(cfg, values, loader) for _ in range(2))
    loader.close()
    assert first.metric == second.metric
    assert [scope.local_var_names() for scope in scopes] == [[], []]
    assert [executor() for executor in executors] == [None, None]


class Bare:
    """Paddle's executor with nothing but what its documentation promises; counts its runs."""

    def __init__(self, executor):
        self.executor, self.runs = executor, 0

    def run(self, *args, **kwargs):
        self.runs += 1
        return self.executor.run(*args, **kwargs)


def products(*factors):
    """A program of one feed, `image`, with a result `times F` for each factor."""
    return traced(lambda image, training: {f"times {factor}": image * factor for factor in factors})


def test_more_programs_than_a_session_keeps_ready_run_in_turns():
    session, image = Session("cpu"), np.full((2, 4, 3, 3), 2.0, "float32")
    programs = {factor: products(factor) for factor in range(1, 11)}
    for _ in range(2):
        for factor, program in programs.items():
            (result,) = session.run(program, {"image": image * factor}, [f"times {factor}"]).values()
            assert (result == 2 * factor**2).all()


def test_results_follow_the_names_that_are_asked_for():
    session, image = Session("cpu"), np.ones((1, 4, 2, 2), "float32")
    program = products(2, 3, 5)
    for factors in ((2, 3), (3, 2), (5,), (2, 3)):
        found = session.run(program, {"image": image}, [f"times {factor}" for factor in factors])
        assert {name: float(array.mean()) for name, array in found.items()} == {f"times {f}": f for f in factors}


def test_a_program_is_looked_up_once_and_by_another_paddle_each_time(monkeypatch):
    image = {"image": np.ones((1, 4, 2, 2), "float32")}
    session, program = Session("cpu"), products(7)
    cache, looked_up = session._executor._executor_cache, []
    look_up = cache.get_pir_program_and_executor
    monkeypatch.setattr(cache, "get_pir_program_and_executor", lambda *args: looked_up.append(1) or look_up(*args))
    results = [session.run(program, image, ["times 7"])["times 7"] for _ in range(3)]
    assert len(looked_up) == 1
    other = Session("cpu")
    other._executor = bare = Bare(other._executor)
    results += [other.run(program, image, ["times 7"])["times 7"] for _ in range(3)]
    assert bare.runs == 3
    assert all((result == 7).all() for result in results)
