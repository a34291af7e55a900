"""Losses of a user: from a file, and passed as functions."""

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.common.errors import LossError
from slim_distill.config.schema import DistillConfig, TeacherConfig, TermConfig
from slim_distill.losses import LOSSES, Term, bind
from slim_distill.losses.build import terms_from_config
from slim_distill.losses.plugin import load_losses

MINE = '''
import paddle
def cubed(student: paddle.Tensor, teacher: paddle.Tensor, *, gain: float = 1.0):
    """|s - t|^3."""
    return gain * (paddle.abs(student - teacher) ** 3).mean()
LOSSES = {"cubed": cubed}
'''


def plugin(folder, text):
    path = folder / "mine.py"
    path.write_text(text)
    return path


@pytest.mark.usefixtures("static_mode")
def test_a_file_adds_losses_that_recipes_name(tmp_path, caplog):
    table = load_losses(plugin(tmp_path, MINE))
    assert set(table) == {*LOSSES, "cubed"}
    assert f"running the code of {tmp_path / 'mine.py'}" in caplog.text
    term = TermConfig("cubed", ("a",), ("a",), args={"gain": 2.0})
    (got,) = terms_from_config(DistillConfig({"teacher_": TeacherConfig()}, (term,)), table)
    variables = {name: static.data(name, [2], "float32") for name in ("a", "teacher_a")}
    loss = bind(got, variables.__getitem__).build()
    feed = {"a": np.array([3.0, 0.0], "float32"), "teacher_a": np.array([1.0, 0.0], "float32")}
    assert static.Executor().run(feed=feed, fetch_list=[loss])[0] == pytest.approx(8.0)


def test_a_function_needs_no_table():
    def difference(student: paddle.Tensor, teacher: paddle.Tensor):
        return (student - teacher).mean()

    one = paddle.ones([2])
    bound = bind(Term("difference", ("a",), ("b",), function=difference), lambda name: one)
    assert float(bound.build()) == 0.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", r"must define LOSSES = \{'name': function, ...\}, found None"),
        ("LOSSES = {'a': 3}", r"must define LOSSES"),
        ("LOSSES = {'l2': print}", r"redefines the loss 'l2'"),
        ("1 / 0", r"fails: ZeroDivisionError"),
    ],
)
def test_refuses_files_without_losses(tmp_path, text, message):
    with pytest.raises(LossError, match=message):
        load_losses(plugin(tmp_path, text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(LossError, match=r"plugin: there is no file .*nowhere\.py"):
        load_losses(tmp_path / "nowhere.py")
