"""PaddleSlim's functions under their names, used the way its scripts use them."""

import re
from pathlib import Path

import numpy as np
import paddle
import pytest
from paddle import static
from paddle.utils import unique_name

import slim_distill
from slim_distill import dkd, fsp, l2, loss, merge, skd, soft_label
from slim_distill.common.errors import GraphError, VariableNotFoundError

pytestmark = pytest.mark.usefixtures("static_mode")

X = np.random.RandomState(0).randn(4, 3, 8, 8).astype("float32")


def network(width, data_name):
    """A program of two convolutions, a batch norm and a linear layer, built the ordinary way."""
    main, startup = static.Program(), static.Program()
    with static.program_guard(main, startup), unique_name.guard():
        x = static.data(data_name, [None, 3, 8, 8], "float32")
        h = paddle.nn.Conv2D(3, width, 3, padding=1)(x)
        h = paddle.nn.functional.relu(paddle.nn.BatchNorm2D(width)(h))
        h = paddle.nn.Conv2D(width, 5, 1)(h)
        paddle.nn.Linear(5, 7)(paddle.mean(h, axis=[2, 3]))
    return main, startup


@pytest.fixture
def merged():
    """A student program with a wider teacher merged into it, both started."""
    exe = static.Executor(paddle.CPUPlace())
    teacher, teacher_startup = network(6, "image")
    student, student_startup = network(4, "x")
    teacher_scope = static.Scope()
    with static.scope_guard(teacher_scope):
        exe.run(teacher_startup)
    exe.run(student_startup)
    merge(teacher, student, {"image": "x"}, paddle.CPUPlace(), teacher_scope=teacher_scope)
    return exe, student, student_startup


def run(merged, build):
    exe, student, startup = merged
    with static.program_guard(student, startup):
        value = build()
    return exe.run(student, feed={"x": X}, fetch_list=[value])[0]


def test_l2_by_name_is_the_mean_squared_difference(merged):
    exe, student, startup = merged
    with static.program_guard(student, startup):
        value = l2("teacher_conv2d_1.tmp_1", "conv2d_1.tmp_1")
        named = slim_distill.paddleslim.name_program(student)
        pair = [named["teacher_conv2d_1.tmp_1"], named["conv2d_1.tmp_1"]]
    out, teacher, own = exe.run(student, feed={"x": X}, fetch_list=[value, *pair])
    assert not np.array_equal(teacher, own)
    np.testing.assert_allclose(out, np.mean((teacher.astype("f8") - own) ** 2), rtol=1e-6)


def test_losses_train_the_student_and_leave_the_teacher_alone(merged):
    exe, student, _ = merged
    fresh = static.Program()
    with static.program_guard(student, fresh):
        total = l2("teacher_linear_0.tmp_1", "linear_0.tmp_1") + soft_label(
            "teacher_linear_0.tmp_1", "linear_0.tmp_1", teacher_temperature=2.0, student_temperature=2.0
        )
        _, pairs = paddle.optimizer.Momentum(0.2, 0.9).minimize(total)
    assert {p.name.startswith("teacher_") for p, _ in pairs} == {False}
    exe.run(fresh)
    read = lambda n: np.array(static.global_scope().find_var(n).get_tensor())  # noqa: E731
    before = read("teacher_conv2d_0.w_0"), read("teacher_batch_norm2d_0.w_1"), read("conv2d_0.w_0")
    losses = [float(exe.run(student, feed={"x": X}, fetch_list=[total])[0]) for _ in range(12)]
    assert losses[-1] < losses[0]
    np.testing.assert_array_equal(read("teacher_conv2d_0.w_0"), before[0])
    np.testing.assert_array_equal(read("teacher_batch_norm2d_0.w_1"), before[1])
    assert not np.array_equal(read("conv2d_0.w_0"), before[2])


def test_fsp_dkd_and_skd_work(merged):
    maps = ("teacher_conv2d_1.tmp_1", "teacher_conv2d_1.tmp_1", "conv2d_1.tmp_1", "conv2d_1.tmp_1")
    logits = ("teacher_linear_0.tmp_1", "linear_0.tmp_1")
    assert run(merged, lambda: fsp(*maps)) > 0
    assert run(merged, lambda: dkd(*logits)) > 0
    same = ("teacher_linear_0.tmp_1", "teacher_linear_0.tmp_1")
    assert run(merged, lambda: dkd(*same)) == pytest.approx(0.0, abs=1e-6)
    assert np.isfinite(run(merged, lambda: skd(*logits)))


def test_own_loss_gets_variables_for_names(merged):
    value = run(merged, lambda: loss(lambda a, b: paddle.mean(paddle.abs(a - b)), a="x", b="x"))
    assert value == 0.0
    value = run(merged, lambda: loss(lambda a, factor: paddle.mean(paddle.abs(a)) * factor, a="x", factor=0.0))
    assert value == 0.0


def test_unknown_name_shows_the_nearest(merged):
    _, student, startup = merged
    with static.program_guard(student, startup), pytest.raises(VariableNotFoundError, match=r"conv2d_1\.tmp_1"):
        l2("teacher_conv2d_1.tmp_1", "conv2d_1.tmp_9")


def test_a_teacher_without_values_is_refused():
    teacher, _ = network(6, "image")
    student, _ = network(4, "x")
    with pytest.raises(GraphError, match=r"'\w+\.\w+' has no value"):
        merge(teacher, student, {"image": "x"}, paddle.CPUPlace(), teacher_scope=static.Scope())


def test_the_same_prefix_twice_is_refused(merged):
    _, student, _ = merged
    teacher, startup = network(6, "image")
    scope = static.Scope()
    with static.scope_guard(scope):
        static.Executor(paddle.CPUPlace()).run(startup)
    with pytest.raises(GraphError, match="use another prefix"):
        merge(teacher, student, {"image": "x"}, paddle.CPUPlace(), teacher_scope=scope)


def test_names_are_those_of_the_legacy_ir():
    """As Paddle 3.3.1 lists them for this network with FLAGS_enable_pir_api=0, batch norms apart."""
    main, _ = network(4, "x")
    named = slim_distill.paddleslim.name_program(main)
    legacy = ("conv2d_0.tmp_0", "conv2d_0.tmp_1", "relu_0.tmp_0", "conv2d_1.tmp_0", "conv2d_1.tmp_1", "mean_0.tmp_0")
    for name in (*legacy, "linear_0.tmp_0", "linear_0.tmp_1", "x", "conv2d_1.w_0", "batch_norm2d_0.w_2"):
        assert name in named, name
    assert named["conv2d_1.tmp_0"].get_defining_op().name() == "pd_op.conv2d"
    assert named["conv2d_1.tmp_1"].get_defining_op().name() == "pd_op.add"


def test_the_script_of_the_guide_runs():
    text = (Path(__file__).resolve().parents[1] / "docs" / "from_paddleslim.md").read_text(encoding="utf-8")
    before, after = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    space = {}
    exec(after, space)
    losses = space["losses"]
    assert len(losses) == 20
    assert losses[-1] < 0.5 * losses[0]
    # What the guide says: the same lines but for the imports and the teacher's clone.
    changed = {line for line in before.splitlines() if line not in after.splitlines()}
    assert len(changed) == 3
    assert all("paddleslim" in line or "clone" in line or "enable_pir_api" in line for line in changed)
