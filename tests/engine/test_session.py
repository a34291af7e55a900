"""A session gives its memory back: Paddle keeps scopes for ever, and executors in cycles."""

import gc
import weakref

import numpy as np
import pytest

from slim_distill.config import load_config
from slim_distill.engine import build
from slim_distill.engine.session import Session
from slim_distill.graph import parameters
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
