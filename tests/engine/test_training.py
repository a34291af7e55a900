"""Training programs on a toy pair: identities that must hold to the last bit, and checks that must refuse."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.common.errors import ConfigError, GraphError, LossError, TrainingError
from slim_distill.common.specs import FeedSpec, ModelSpec
from slim_distill.config.schema import OptimizerConfig
from slim_distill.engine.session import Session, check_finite, seed_step
from slim_distill.engine.training import EMA_PREFIX, LEARNING_RATE, build_training
from slim_distill.graph import Freeze, merge, run_passes, trace
from slim_distill.losses import Layers
from slim_distill.losses.schedule import Schedule
from slim_distill.losses.terms import Term

pytestmark = pytest.mark.usefixtures("static_mode")

OPTIMIZER = OptimizerConfig(momentum=0.9, weight_decay=0.01)
L2 = Term("l2", ("logits",), ("teacher_logits",), 3.0)


def net(hidden, *, unused=False):
    """Two linear layers with dropout between; the second has no decay and half the rate."""

    def build(feeds):
        first = static.create_parameter([6, hidden], "float32", attr=paddle.ParamAttr(name="first_weights"))
        second = static.create_parameter(
            [hidden, 3],
            "float32",
            attr=paddle.ParamAttr(
                name="second_weights", learning_rate=0.5, regularizer=paddle.regularizer.L2Decay(0.0)
            ),
        )
        if unused:
            static.create_parameter([2], "float32", attr=paddle.ParamAttr(name="unused_bias"))
        h = paddle.nn.functional.dropout(paddle.tanh(paddle.matmul(feeds["x"], first)), 0.3)
        logits = paddle.matmul(h, second)
        return {"h": h, "logits": logits, "loss": paddle.mean((logits - feeds["y"]) ** 2)}

    return ModelSpec({"x": FeedSpec((None, 6)), "y": FeedSpec((None, 3))}, build)


def batch(step):
    rng = np.random.RandomState(step)
    return {"x": rng.randn(5, 6).astype("float32"), "y": rng.randn(5, 3).astype("float32")}


def distilled(terms, optimizer=OPTIMIZER, hidden=4):
    teacher = run_passes(trace(net(8)), [Freeze()]).program
    return build_training(merge(trace(net(hidden)), teacher), terms, optimizer)


def steps(training, count, seed=3, first=0, session=None):
    """Run `count` steps and return the session and the losses of each."""
    if session is None:
        session = Session("cpu")
        session.start(training.program, seed)
    fetch = list(training.losses.values())
    rows = []
    for step in range(first, first + count):
        session.write(training.scalars(0.1, step))
        seed_step(seed, step)
        rows.append(session.run(training.program, batch(step), fetch))
    return session, rows


def test_weight_zero_equals_training_without_a_teacher_bit_for_bit():
    alone = build_training(trace(net(4)), (), OPTIMIZER)
    controlled = distilled([Term("l2", ("logits",), ("teacher_logits",), 0.0)])
    session_a, rows_a = steps(alone, 6)
    session_b, rows_b = steps(controlled, 6)
    for a, b in zip(rows_a, rows_b, strict=True):
        assert a["loss"].tobytes() == b["loss"].tobytes()
    names = (*alone.student, *alone.state)
    assert set(names) <= {*controlled.student, *controlled.state}
    a, b = session_a.read(names), session_b.read(names)
    assert all(a[name].tobytes() == b[name].tobytes() for name in names)


def test_weight_zero_holds_for_terms_that_own_layers_and_the_layers_train_otherwise():
    term = lambda weight: Term("l2", ("h",), ("teacher_h",), weight, {"adapter": "linear"})  # noqa: E731
    control = distilled([term(0.0)])
    alone, _ = steps(build_training(trace(net(4)), (), OPTIMIZER), 4)
    session, _ = steps(control, 4)
    names = ("first_weights", "second_weights")
    a, b = alone.read(names), session.read(names)
    assert all(a[name].tobytes() == b[name].tobytes() for name in names)
    trained = distilled([term(1.0)])
    owned = [name for name in trained.gradients if name.startswith("distill.0.")]
    assert owned
    assert set(owned) <= set(trained.state)
    assert not set(owned) & set(trained.student)


def test_a_positive_weight_changes_the_trajectory_and_is_in_the_total():
    session_a, _ = steps(distilled([Term("l2", ("logits",), ("teacher_logits",), 0.0)]), 2)
    training = distilled([L2])
    session_b, rows = steps(training, 2)
    assert not np.array_equal(*(s.read(["first_weights"])["first_weights"] for s in (session_a, session_b)))
    for row in rows:
        assert row["distill"] == pytest.approx(3.0 * row["distill.0.l2"], rel=1e-6)
        assert row["total"] == pytest.approx(row["loss"] + row["distill"], rel=1e-6)


def test_teacher_does_not_move():
    training = distilled([L2])
    session = Session("cpu")
    session.start(training.program, 3)
    names = ["teacher_first_weights", "teacher_second_weights"]
    before = session.read(names)
    steps(training, 4, session=session)
    after = session.read(names)
    assert all(before[n].tobytes() == after[n].tobytes() for n in names)
    assert not set(names) & {*training.student, *training.state}


def test_momentum_decay_and_rate_multiplier_follow_their_formula():
    training = build_training(trace(net(4)), (), OPTIMIZER)
    session = Session("cpu")
    session.start(training.program, 3)
    names = ("first_weights", "second_weights")
    weights = session.read(names)
    velocity = {n: np.zeros_like(weights[n]) for n in names}
    decay, multiplier = {"first_weights": 0.01, "second_weights": 0.0}, {"first_weights": 1.0, "second_weights": 0.5}
    for step in range(3):
        session.write({LEARNING_RATE: np.asarray(0.1, "float32")})
        seed_step(3, step)
        gradients = session.run(training.program, batch(step), [training.gradients[n] for n in names])
        for n in names:
            velocity[n] = 0.9 * velocity[n] + gradients[training.gradients[n]] + decay[n] * weights[n]
            weights[n] = weights[n] - 0.1 * multiplier[n] * velocity[n]
        now = session.read(names)
        for n in names:
            np.testing.assert_allclose(now[n], weights[n], rtol=1e-5, atol=1e-7)


def test_averages_follow_their_formula_and_start_anywhere():
    training = build_training(trace(net(4)), (), OptimizerConfig(ema=0.75))
    session = Session("cpu")
    session.start(training.program, 3)
    average = np.full((6, 4), 0.5, "float32")
    session.write({EMA_PREFIX + "first_weights": average})
    for step in range(3):
        steps(training, 1, first=step, session=session)
        average = average * 0.75 + session.read(["first_weights"])["first_weights"] * 0.25
    np.testing.assert_allclose(session.read(["ema.first_weights"])["ema.first_weights"], average, rtol=1e-5)
    assert EMA_PREFIX + "first_weights" in training.state
    assert EMA_PREFIX + "first_weights" not in training.student


def test_the_state_is_complete_so_that_a_restored_run_goes_on_bit_for_bit():
    training = distilled([L2], OptimizerConfig(type="adamw", ema=0.9))
    session, _ = steps(training, 3)
    saved = session.read((*training.student, *training.state))
    straight, rows = steps(training, 3, first=3, session=session)

    again = Session("cpu")
    again.start(training.program, seed=99)
    again.write({n: a for n, a in session.read(training.program.parameters()).items() if n.startswith("teacher_")})
    again.write(saved)
    _, rows_again = steps(training, 3, first=3, session=again)
    for a, b in zip(rows, rows_again, strict=True):
        assert a["total"].tobytes() == b["total"].tobytes()
    a, b = straight.read(training.student), again.read(training.student)
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_a_schedule_multiplies_the_weight_and_is_no_state():
    fading = Term("l2", ("logits",), ("teacher_logits",), 3.0, schedule=Schedule("linear", 1.0, 0.0, 0, 4))
    training = distilled([fading])
    assert "distill.0.weight" not in {*training.state, *training.student}
    _, rows = steps(training, 5)
    for step, row in enumerate(rows):
        assert row["distill"] == pytest.approx(3.0 * (1 - step / 4) * row["distill.0.l2"], rel=1e-6)
        assert row["total"] == pytest.approx(row["loss"] + row["distill"], rel=1e-6)


def test_a_schedule_that_stays_at_one_equals_no_schedule_bit_for_bit():
    session_a, _ = steps(distilled([L2]), 4)
    session_b, _ = steps(distilled([replace(L2, schedule=Schedule())]), 4)
    names = ("first_weights", "second_weights")
    a, b = session_a.read(names), session_b.read(names)
    assert all(a[name].tobytes() == b[name].tobytes() for name in names)


def test_a_stopped_term_leaves_the_student_to_its_own_loss():
    stopped = replace(L2, schedule=lambda step: float(step < 2))
    session_a, _ = steps(distilled([stopped]), 2)
    session_b, _ = steps(distilled([L2]), 2)
    names = ("first_weights", "second_weights")
    assert all(np.array_equal(session_a.read(names)[n], session_b.read(names)[n]) for n in names)
    alone = build_training(trace(net(4)), (), OPTIMIZER)
    own, distilling = Session("cpu"), distilled([stopped])
    own.start(alone.program, 3)
    own.write(session_a.read((*alone.student, *alone.state)))
    steps(alone, 2, first=2, session=own)
    steps(distilling, 2, first=2, session=session_a)
    a, b = session_a.read(names), own.read(names)
    for name in names:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-6)


def test_a_scheduled_run_goes_on_bit_for_bit():
    training = distilled([replace(L2, schedule=Schedule("cosine", 1.0, 0.1, 0, 6, warmup=4))])
    session, _ = steps(training, 3)
    saved = session.read((*training.student, *training.state))
    teacher = {n: a for n, a in session.read(training.program.parameters()).items() if n.startswith("teacher_")}
    steps(training, 3, first=3, session=session)
    again = Session("cpu")
    again.start(training.program, seed=99)
    again.write({**teacher, **saved})
    steps(training, 3, first=3, session=again)
    a, b = session.read(training.student), again.read(training.student)
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_gradients_are_looked_at_when_their_term_begins():
    late = Term("l2", ("h",), ("teacher_h",), 1.0, {"adapter": "linear"}, schedule=lambda step: float(step >= 3))
    training = distilled([late])
    owned = {name for name in training.gradients if name.startswith("distill.0.")}
    assert len(owned) == 2
    due = [set(training.first_gradients(step)) for step in range(5)]
    assert due == [{"first_weights", "second_weights"}, set(), set(), owned, set()]
    assert set(distilled([L2]).first_gradients(0)) == {"first_weights", "second_weights"}


def test_balance_keeps_the_gradient_at_its_share_of_the_task_loss():
    training = distilled([Term("l2", ("logits",), ("teacher_logits",), balance=0.25)])
    alone = build_training(trace(net(4)), (), OPTIMIZER)
    session, own = Session("cpu"), Session("cpu")
    session.start(training.program, 3)
    own.start(alone.program, 5)
    kept = None
    for step in range(4):
        own.write(session.read((*alone.student, *alone.state)))
        found = []
        for one, which in ((session, training), (own, alone)):
            one.write(which.scalars(0.1, step))
            seed_step(3, step)
            extra = ["distill.0.balance"] if which is training else []
            found.append(one.run(which.program, batch(step), [*alone.gradients.values(), *extra]))
        factor = found[0]["distill.0.balance"]
        total, task = (
            np.concatenate([out[name].ravel() for name in alone.gradients.values()]).astype("float64") for out in found
        )
        now = np.array([np.linalg.norm(task), np.linalg.norm(total - task) / factor])
        kept = now if kept is None else 0.9 * kept + 0.1 * now
        assert factor == pytest.approx(0.25 * kept[0] / kept[1], rel=1e-4)
        np.testing.assert_allclose(session.read(["distill.0.norms"])["distill.0.norms"], kept, rtol=1e-4)
    assert "distill.0.norms" in training.state


def test_balance_goes_with_a_schedule_and_a_resumed_run_is_exact():
    term = Term("l2", ("h",), ("teacher_h",), 1.0, {"adapter": "linear"}, schedule=Schedule(warmup=4), balance=0.5)
    training = distilled([term])
    session, rows = steps(training, 3)
    for step, row in enumerate(rows):
        expected = (step + 1) / 4 * row["distill.0.balance"] * row["distill.0.l2"]
        assert row["distill"] == pytest.approx(expected, rel=1e-5)
    saved = session.read((*training.student, *training.state))
    teacher = {n: a for n, a in session.read(training.program.parameters()).items() if n.startswith("teacher_")}
    steps(training, 2, first=3, session=session)
    again = Session("cpu")
    again.start(training.program, seed=99)
    again.write({**teacher, **saved})
    steps(training, 2, first=3, session=again)
    a, b = (s.read((*training.student, *training.state)) for s in (session, again))
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_balance_needs_a_task_loss_and_no_weight_beside_it():
    merged = merge(trace(net(4)), run_passes(trace(net(8)), [Freeze()]).program)
    with pytest.raises(TrainingError, match=r"distill\.terms\[0\]\.balance: there is no task loss"):
        build_training(merged, [Term("l2", ("logits",), ("teacher_logits",), balance=1.0)], OPTIMIZER, task_loss="")
    with pytest.raises(LossError, match=r"distill\.terms\[0\]\.balance: sets the weight at every step; .* got 3"):
        distilled([replace(L2, balance=1.0)])


@pytest.mark.parametrize("decay", [0.0, 0.75, 1.0])
def test_a_mean_teacher_follows_the_student_and_resumes_exactly(decay):
    copy = run_passes(trace(net(4)), [Freeze()]).program
    term = Term("l2", ("logits",), ("mean_logits",), 2.0)
    training = build_training(merge(trace(net(4)), copy, "mean_"), [term], OPTIMIZER, averages={"mean_": decay})
    assert training.copies == {f"mean_{n}": n for n in ("first_weights", "second_weights")}
    assert set(training.copies) <= set(training.state)
    assert not any(name.startswith("mean_") for name in (*training.gradients, *training.student))
    session = Session("cpu")
    session.start(training.program, 3)
    session.write({guest: session.read([own])[own] for guest, own in training.copies.items()})
    expected = session.read(training.copies.values())
    for step in range(3):
        steps(training, 1, first=step, session=session)
        now = session.read(training.copies.values())
        expected = {name: decay * array + (1 - decay) * now[name] for name, array in expected.items()}
    for guest, own in training.copies.items():
        np.testing.assert_allclose(session.read([guest])[guest], expected[own], rtol=1e-5, atol=1e-7)
    again = Session("cpu")
    again.start(training.program, seed=99)
    again.write(session.read((*training.student, *training.state)))
    steps(training, 2, first=3, session=session)
    steps(training, 2, first=3, session=again)
    a, b = (s.read((*training.student, *training.state)) for s in (session, again))
    assert all(a[name].tobytes() == b[name].tobytes() for name in a)


def test_peers_that_are_not_frozen_are_state_and_train():
    training = build_training(merge(trace(net(4)), trace(net(4)), "peer_"), [
        Term("l2", ("logits",), ("peer_logits",), 1.0),
        Term("l2", ("peer_logits",), ("logits",), 1.0),
    ], OPTIMIZER)  # fmt: skip
    assert "peer_first_weights" in training.state
    session = Session("cpu")
    session.start(training.program, 3)
    before = session.read(["peer_first_weights"])["peer_first_weights"]
    steps(training, 2, session=session)
    assert not np.array_equal(before, session.read(["peer_first_weights"])["peer_first_weights"])


def test_a_parameter_without_gradient_is_refused_and_named():
    with pytest.raises(TrainingError, match="1 trainable parameters get no gradient.*unused_bias"):
        build_training(trace(net(4, unused=True)), (), OPTIMIZER)


def test_an_owned_layer_that_no_loss_reaches_is_refused_and_named():
    def forgetful(student: paddle.Tensor, teacher: paddle.Tensor, *, layers: Layers):
        layers.linear("forgotten", student, 3)
        return ((student - teacher) ** 2).mean()

    with pytest.raises(
        TrainingError, match=r"get no gradient from any loss: distill\.0\.forgotten\.bias, distill\.0\.forg"
    ):
        distilled([Term("forgetful", ("logits",), ("teacher_logits",), function=forgetful)])


def test_nothing_to_minimise_is_refused():
    with pytest.raises(TrainingError, match="nothing to minimise"):
        build_training(trace(net(4)), (), OPTIMIZER, task_loss="")


def test_unknown_optimizer_is_refused():
    with pytest.raises(TrainingError, match=r"optimizer\.type: 'adagard'"):
        build_training(trace(net(4)), (), OptimizerConfig(type="adagard"))


def test_non_finite_loss_names_step_terms_and_rate():
    with pytest.raises(
        TrainingError, match=r"step 7: distill is not finite \(loss=1.5, distill=nan; learning rate 0.1\)"
    ):
        check_finite({"loss": 1.5, "distill": float("nan")}, 7, 0.1)
    check_finite({"loss": 1.5}, 7, 0.1)


def test_a_missing_feed_is_named():
    training = build_training(trace(net(4)), (), OPTIMIZER)
    session = Session("cpu")
    session.start(training.program, 3)
    with pytest.raises(GraphError, match="needs a feed 'y', the batch has x"):
        session.run(training.program, {"x": batch(0)["x"]}, ["loss"])


def test_reading_an_unknown_parameter_shows_the_nearest():
    session, _ = steps(build_training(trace(net(4)), (), OPTIMIZER), 1)
    with pytest.raises(GraphError, match="no value for 'first_weight'.*first_weights"):
        session.read(["first_weight"])


@pytest.mark.skipif(paddle.device.is_compiled_with_cuda(), reason="this Paddle has CUDA")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="device: 'gpu' was asked for"):
        Session("gpu")
