"""What is unusual but not wrong: half precision, flags of the user, and a batch that is refused."""

import logging
import subprocess
import sys

import numpy as np
import pytest

from slim_distill.common.errors import ConfigError, GraphError
from slim_distill.common.weights import write_weights
from slim_distill.config import load_config
from slim_distill.engine import build, costs
from slim_distill.engine.compiling import initial_values
from slim_distill.engine.costs import step_cost
from slim_distill.engine.session import Session, user_flags
from slim_distill.graph import trace
from slim_distill.models.build import build_model
from tests.graph.nets import conv, traced
from tests.tiny import run_config, write_config

pytestmark = pytest.mark.usefixtures("static_mode")

SERIAL = "FLAGS_new_executor_serial_run"


def test_weights_of_half_precision_are_converted_with_a_line(tmp_path, caplog):
    cfg = load_config(write_config(tmp_path / "run.yml", run_config(tmp_path, tmp_path)))
    program = trace(build_model(cfg.model, "eval"))
    values = initial_values(program).values
    path = tmp_path / "half.safetensors"
    write_weights(path, {name: array.astype("float16") for name, array in values.items()})
    with caplog.at_level(logging.INFO):
        loaded = build.load_weights(str(path), program, strict=True)
    assert (
        f"{path}: {len(values)} parameters stored as float16 are converted to the program's number type"
        in caplog.messages
    )
    for name, array in loaded.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, values[name].astype("float16"))
    caplog.clear()
    write_weights(tmp_path / "full.safetensors", dict(values))
    with caplog.at_level(logging.INFO):
        build.load_weights(str(tmp_path / "full.safetensors"), program, strict=True)
    assert not [line for line in caplog.messages if "converted" in line]


def test_a_batch_of_no_images_is_refused():
    def network(x, *, training):
        return {"out": conv(x, "a", 4)}

    program = traced(network)
    session = Session("cpu")
    session.start(program, seed=0)
    with pytest.raises(GraphError, match=r"feed 'image' is \[0, 4, 16, 16\]: a batch needs at least one image"):
        session.run(program, {"image": np.zeros((0, 4, 16, 16), "float32")}, ["out"])
    assert session.run(program, {"image": np.zeros((1, 4, 16, 16), "float32")}, ["out"])["out"].shape[0] == 1


@pytest.mark.parametrize(
    ("environ", "start"),
    [
        ({SERIAL: "0"}, f"{SERIAL}=0 is kept as set: operators run in any order"),
        ({SERIAL: "False"}, f"{SERIAL}=False is kept as set"),
        ({"FLAGS_use_mkldnn": "1"}, "FLAGS_use_mkldnn=1 is kept as set: Paddle then puts every operator on oneDNN"),
        ({"FLAGS_use_onednn": "true"}, "FLAGS_use_onednn=true is kept as set"),
    ],
)
def test_flags_of_the_user_that_matter_get_a_line(environ, start):
    (line,) = user_flags(environ)
    assert line.startswith(start)


def test_other_flags_of_the_user_do_not():
    assert user_flags({}) == []
    assert user_flags({SERIAL: "1", "FLAGS_use_mkldnn": "0", "FLAGS_allocator_strategy": "auto_growth"}) == []


def in_a_new_process(monkeypatch, flag, value, code):
    """Switch to static mode where the environment sets a flag so, or (None) does not, and run `code`; it may assert."""
    monkeypatch.delenv(flag, raising=False)
    if value is not None:
        monkeypatch.setenv(flag, value)
    begin = (
        "import paddle\nfrom slim_distill.engine.session import runs_in_order, start_static_mode\nstart_static_mode()\n"
    )
    subprocess.run([sys.executable, "-c", begin + code], check=True)


@pytest.mark.parametrize(("value", "serial"), [(None, True), ("0", False), ("1", True)])
def test_a_flag_of_the_user_is_not_overridden(monkeypatch, value, serial):
    in_a_new_process(monkeypatch, SERIAL, value, f"assert runs_in_order() is {serial}")


@pytest.mark.parametrize(("value", "gigabytes"), [(None, 0.02), ("0.5", 0.5), ("-1", -1)])
def test_results_are_given_back_many_at_a_time_unless_the_user_says_otherwise(monkeypatch, value, gigabytes):
    flag = "FLAGS_eager_delete_tensor_gb"
    code = f"assert abs(paddle.get_flags('{flag}')['{flag}'] - {gigabytes}) < 1e-6"
    in_a_new_process(monkeypatch, flag, value, code)


def test_times_need_an_order(tmp_path, monkeypatch):
    cfg = load_config(write_config(tmp_path / "run.yml", run_config(tmp_path, tmp_path)))
    monkeypatch.setattr(costs, "runs_in_order", lambda: False)
    with pytest.raises(ConfigError, match="--time needs operators to run one after the other"):
        step_cost(cfg, time=True)
