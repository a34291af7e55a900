"""A recipe on one batch: numbers against those of the training program, and every warning."""

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.common.specs import FeedSpec, ModelSpec
from slim_distill.config.schema import OptimizerConfig
from slim_distill.engine.dry_run import render, report_terms
from slim_distill.engine.session import Session, seed_step
from slim_distill.engine.training import build_training
from slim_distill.graph import Freeze, merge, run_passes, trace
from slim_distill.losses.schedule import Schedule
from slim_distill.losses.terms import Term
from slim_distill.models.yolo_loss import bce

pytestmark = pytest.mark.usefixtures("static_mode")

BATCH = {
    "x": np.random.RandomState(0).randn(5, 6).astype("float32"),
    "y": np.random.RandomState(1).rand(5, 3).astype("float32"),
}


def net(hidden, *, judge=None, frozen_first=False):
    """Two linear layers; `judge` comes between the logits and the squared error."""

    def build(feeds):
        first = static.create_parameter([6, hidden], "float32", attr=paddle.ParamAttr(name="first"))
        first.stop_gradient = frozen_first
        second = static.create_parameter([hidden, 3], "float32", attr=paddle.ParamAttr(name="second"))
        h = paddle.tanh(paddle.matmul(feeds["x"], first))
        logits = paddle.matmul(h, second)
        judged = judge(paddle.reshape(logits, [-1, 3])) if judge else logits
        return {"h": h, "logits": logits, "loss": paddle.mean((judged - feeds["y"]) ** 2)}

    return ModelSpec({"x": FeedSpec((None, 6)), "y": FeedSpec((None, 3))}, build)


def merged(student=None, hidden=8):
    teacher = run_passes(trace(net(hidden)), [Freeze()]).program
    return merge(trace(student or net(4)), teacher)


def term(loss="l2", name="logits", weight=1.0, index=0, **more):
    return Term(loss, (name,), (f"teacher_{name}",), weight, path=f"distill.terms[{index}]", **more)


def report(terms, **net_options):
    return report_terms(merged(net(4, **net_options)), terms, Session("cpu"), BATCH)


def test_values_and_gradients_are_those_of_the_training_program():
    terms = [term(weight=2.0), term("l1", index=1, weight=0.5)]
    got = report(terms)
    session = Session("cpu")

    def gradient(*which, task="loss"):
        training = build_training(merged(), which, OptimizerConfig(type="sgd", weight_decay=0.0), task_loss=task)
        session.start(training.program, 0)
        session.write(training.scalars(0.0, 0))
        seed_step(0, 0)
        out = session.run(training.program, BATCH, [*training.gradients.values(), *training.losses.values()])
        flat = np.concatenate([out[name].ravel() for name in training.gradients.values()])
        return np.linalg.norm(flat), out

    task, out = gradient()
    assert got.task_loss == pytest.approx(float(out["loss"]), rel=1e-6)
    assert got.task_gradient == pytest.approx(task, rel=1e-5)
    for row, one in zip(got.terms, terms, strict=True):
        own, out = gradient(Term(one.loss, one.student, one.teacher), task="")
        assert row.value == pytest.approx(float(out[f"distill.0.{one.loss}"]), rel=1e-6)
        assert row.gradient == pytest.approx(own, rel=1e-5)
        assert row.value_share == pytest.approx(one.weight * row.value / got.task_loss, rel=1e-6)
        assert row.gradient_share == pytest.approx(one.weight * own / task, rel=1e-5)
    assert got.warnings == ()


def test_a_balanced_term_shows_the_weight_it_would_get():
    (row,) = report([term(balance=0.25)]).terms
    assert row.gradient_share == pytest.approx(0.25, rel=1e-6)


def test_the_table_shows_shapes_adapter_and_schedule():
    terms = [term(name="h", args={"adapter": "linear"}, schedule=Schedule("cosine", 1.0, 0.1, 0, 50))]
    got = report(terms)
    assert got.terms[0].owned == 4 * 8 + 8
    text = render(got)
    for part in ("h [-1, 4]", "teacher_h [-1, 8]", "linear (40 parameters)", "cosine 1 to 0.1, steps 0 to 50"):
        assert part in text


def test_warns_of_a_term_that_drowns_the_task_loss():
    small, large = term(weight=1.0), term("l1", weight=1e6, index=1)
    warnings = report([small, large]).warnings
    assert [w.split(" is ")[0] for w in warnings] == [
        "distill.terms[1]: the weighted value", "distill.terms[1]: the weighted gradient"
    ]  # fmt: skip


def test_warns_of_a_term_before_which_nothing_trains():
    warnings = report([term(name="h", args={"adapter": "linear"})], frozen_first=True).warnings
    assert [w for w in warnings if "distill.terms[0]: no gradient reaches the student's backbone" in w]


@pytest.mark.parametrize(
    ("judge", "kind"),
    [(paddle.nn.functional.sigmoid, "sigmoid"), (lambda x: bce(x, paddle.full_like(x, 0.5)), "softplus")],
)
def test_warns_of_softmax_losses_on_sigmoid_heads(judge, kind):
    warnings = report([term("kd"), term("kd_bernoulli", index=1)], judge=judge).warnings
    assert len(warnings) == 1
    assert warnings[0].startswith(f"distill.terms[0]: kd compares softmax distributions, but logits is read by {kind};")


def test_warns_when_teacher_and_student_are_equal():
    both = merged(net(4), hidden=4)
    weights = {n: np.full(shape, 0.1, "float32") for n, shape in both.parameter_shapes().items()}
    got = report_terms(both, [term()], Session("cpu"), BATCH, values=weights)
    assert any("logits and teacher_logits are equal on this batch" in text for text in got.warnings)


def test_the_command_writes_nothing_and_needs_no_training(tmp_path, capsys):
    from slim_distill.cli import main
    from slim_distill.common.weights import write_weights
    from slim_distill.config import load_config
    from slim_distill.models.build import build_model
    from tests.tiny import run_config, write_config, write_voc

    data = write_voc(tmp_path / "data")
    config = run_config(data, tmp_path / "out")
    config["distill"]["terms"].append({"loss": "kd", "student": "yolo_head.0", "teacher": "yolo_head.0"})
    path = write_config(tmp_path / "student.yml", config)
    program = trace(build_model(load_config(path).model, "eval"))
    arrays = {n: np.full(shape, 0.01, "float32") for n, shape in program.parameter_shapes().items()}
    write_weights(tmp_path / "teacher.safetensors", arrays)
    teacher = ["-t", str(path), "--teacher_pretrained", str(tmp_path / "teacher.safetensors")]
    assert main(["distill", "-c", str(path), *teacher, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "yolo_head.2 [-1, 21, -1, -1]" in printed
    assert "distill.terms[3]: kd compares softmax distributions, but yolo_head.0 is read by" in printed
    assert not (tmp_path / "out").exists()
