"""Every loss at weight 0, attached to a net that trains: the run without it, bit for bit."""

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.common.specs import FeedSpec, ModelSpec
from slim_distill.config.schema import OptimizerConfig
from slim_distill.engine.session import Session, seed_step
from slim_distill.engine.training import build_training
from slim_distill.graph import trace
from slim_distill.losses import LOSSES, Term
from tests.losses.harness import as_list
from tests.losses.test_library import CASES

pytestmark = pytest.mark.usefixtures("static_mode")

NAMES = {function: name for name, function in LOSSES.items()}
ONE_EACH = {NAMES[case.function]: case for case in CASES}


def spec(case=None):
    """A layer with dropout; with a case also what its loss compares, the student's part moved by the layer."""
    arrays, of_student = {}, ()
    if case is not None:
        arrays |= {f"s{i}": array for i, array in enumerate(as_list(case.student))}
        of_student = tuple(arrays)
        arrays |= {f"t{i}": array for i, array in enumerate(as_list(case.teacher))}
        arrays |= case.tensors
    feeds = {"x": FeedSpec((None, 4))}
    for name, array in arrays.items():
        feeds[f"in_{name}"] = FeedSpec(array.shape, "float32" if array.dtype.kind == "f" else str(array.dtype))

    def build(given):
        weight = static.create_parameter([4, 3], "float32", attr=paddle.ParamAttr(name="layer"))
        h = paddle.nn.functional.dropout(paddle.matmul(given["x"], weight), 0.4)
        shrink = 1.0 - 0.01 * paddle.nn.functional.sigmoid(h.mean())  # probabilities stay probabilities
        moved = {name: given[f"in_{name}"] * (shrink if name in of_student else 1) for name in arrays}
        return {**moved, "loss": (h**2).mean()}

    return ModelSpec(feeds, build), {f"in_{n}": a.astype(feeds[f"in_{n}"].dtype) for n, a in arrays.items()}


def train(model, terms, arrays):
    training = build_training(trace(model), terms, OptimizerConfig(weight_decay=0.01))
    session = Session("cpu")
    session.start(training.program, 3)
    session.write({"layer": np.linspace(-1, 1, 12, dtype="float32").reshape(4, 3)})
    losses = []
    for step in range(2):
        session.write(training.scalars(0.1, step))
        seed_step(3, step)
        x = np.random.RandomState(step).randn(5, 4).astype("float32")
        losses.append(session.run(training.program, {"x": x, **arrays}, ["loss", *training.losses.values()])["loss"])
    kept = session.read(["layer", "layer_velocity_0"])
    return b"".join(array.tobytes() for array in (*losses, kept["layer"], kept["layer_velocity_0"])), training


@pytest.fixture(scope="module")
def alone():
    return {}


@pytest.mark.parametrize("name", sorted(LOSSES))
def test_weight_zero_is_the_run_without_the_term_bit_for_bit(name, alone):
    if not alone:
        model, arrays = spec()
        alone["run"] = train(model, (), arrays)[0]
    case = ONE_EACH[name]
    model, arrays = spec(case)
    student, teacher = (
        tuple(f"{side}{i}" for i in range(len(as_list(values))))
        for side, values in (("s", case.student), ("t", case.teacher))
    )
    args = {**case.arguments, **{tensor: tensor for tensor in case.tensors}}
    run, training = train(model, [Term(name, student, teacher, 0.0, args)], arrays)
    assert run == alone["run"]
    assert f"distill.0.{name}" in training.losses
    assert set(training.gradients) == {"layer"}
