"""Binding of a recipe: what is found, what is refused and in which words."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.common.errors import LossError, VariableNotFoundError
from slim_distill.config.schema import DistillConfig, TeacherConfig, TermConfig
from slim_distill.losses import LOSSES, Term, bind, bind_all
from slim_distill.losses._common import TeacherTensor, Tensor
from slim_distill.losses.build import terms_from_config


class Variables(dict):
    """Variables of a program by name, with the error of a real program on a miss."""

    def __call__(self, name):
        if name not in self:
            raise VariableNotFoundError(f"no variable {name!r}; nearest: head")
        return self[name]


@pytest.fixture
def variables(static_mode):
    shapes = {
        "head": [None, 6, 4, 4],
        "neck": [None, 8, 8, 8],
        "logits": [None, 5],
        "teacher_head": [None, 6, 4, 4],
        "teacher_big": [None, 6, 8, 8],
        "teacher_logits": [None, 5],
        "teacher_row": [None, 5, 1],
    }
    found = Variables({name: static.data(name, shape, "float32") for name, shape in shapes.items()})
    found["label"] = static.data("label", [None, 1], "int64")
    return found


def term(loss="l2", student="head", teacher="teacher_head", **more):
    return Term(loss, tuple(student.split()), tuple(teacher.split()), **{"path": "distill.terms[1]", **more})


def run(value, **feed):
    return static.Executor(paddle.CPUPlace()).run(feed=feed, fetch_list=[value])[0]


def scaled(student: Tensor, teacher: Tensor, *, by: Tensor, power: TeacherTensor | None = None, gain: float = 1.0):
    """A loss with named variables among its arguments."""
    total = gain * by.astype("float32").mean() * (student - teacher).mean()
    return total if power is None else total * power.mean()


def test_bound_term_builds_the_unweighted_loss(variables):
    bound = bind(term("soft_label", "logits", "teacher_logits", weight=3.0, args={"student_temperature": 2}), variables)
    value = bound.build()
    s, t = (np.random.default_rng(i).normal(size=(3, 5)).astype("float32") for i in range(2))
    feeds = {name: np.zeros((3, 6, 4, 4), "float32") for name in ("head", "teacher_head")}
    feeds |= {"neck": np.zeros((3, 8, 8, 8), "float32"), "teacher_big": np.zeros((3, 6, 8, 8), "float32")}
    feeds |= {"teacher_row": np.zeros((3, 5, 1), "float32"), "label": np.zeros((3, 1), "int64")}
    got = run(value, logits=s, teacher_logits=t, **feeds)
    p = np.exp(t) / np.exp(t).sum(-1, keepdims=True)
    expected = -(p * (s / 2 - np.log(np.exp(s / 2).sum(-1, keepdims=True)))).sum(-1).mean()
    np.testing.assert_allclose(got, expected, rtol=1e-5)
    assert bound.weight == 3.0


def test_weight_zero_is_a_control_not_an_error(variables):
    assert bind(term(weight=0), variables).weight == 0


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (term("fspp"), r"distill\.terms\[1\]\.loss: loss 'fspp' is not known; did you mean 'fsp'\?"),
        (
            term("soft_label", "logits", "teacher_logits", args={"student_temprature": 2.0}),
            r"distill\.terms\[1\]: loss 'soft_label' has no argument 'student_temprature'; did you mean "
            r"'student_temperature'\? soft_label\(student, teacher, \*, student_temperature: float = 1\.0",
        ),
        (
            term("soft_label", "logits", "teacher_logits", args={"student_temperature": "2"}),
            r"distill\.terms\[1\]\.student_temperature: expected float, got '2'",
        ),
        (
            term("soft_label", "logits", "teacher_logits", args={"student_temperature": True}),
            r"student_temperature: expected float, got True",
        ),
        (
            term("l2", "head neck"),
            r"distill\.terms\[1\]\.student: loss 'l2' takes 1 student variable\(s\), got 2 \(head, neck\)",
        ),
        (term("l2", teacher=""), r"distill\.terms\[1\]\.teacher: .* got 0 \(none\)"),
        (
            term(teacher="teacher_big"),
            r"distill\.terms\[1\]: l2 needs equal shapes: student 'head' is \[-1, 6, 4, 4\], "
            r"teacher 'teacher_big' is \[-1, 6, 8, 8\]",
        ),
        (term("l2", "logits", "teacher_row"), r"needs equal shapes"),
        (term(student="label"), r"distill\.terms\[1\]: 'label' holds int64, loss 'l2' needs floating-point numbers"),
        (term(weight=-1.0), r"distill\.terms\[1\]\.weight: expected a finite number of at least 0, got -1\.0"),
        (term(weight=float("nan")), r"distill\.terms\[1\]\.weight: .* got nan"),
    ],
)
def test_refuses_before_anything_is_built(variables, bad, message):
    operators = len(static.default_main_program().global_block().ops)
    with pytest.raises(LossError, match=message):
        bind(bad, variables)
    assert len(static.default_main_program().global_block().ops) == operators


def test_unknown_variable_names_the_config_path(variables):
    with pytest.raises(VariableNotFoundError, match=r"distill\.terms\[1\]\.teacher: no variable 'teacher_haed'"):
        bind(term(teacher="teacher_haed"), variables)


def test_value_that_the_loss_refuses_names_the_config_path(variables):
    bound = bind(term("soft_label", "logits", "teacher_logits", args={"student_temperature": 0}), variables)
    with pytest.raises(
        LossError, match=r"distill\.terms\[1\]: soft_label: student_temperature must be .* above 0, got 0"
    ):
        bound.build()


def test_same_term_twice_is_refused_whatever_its_weight(variables):
    with pytest.raises(LossError, match=r"distill\.terms\[2\]: the same term is listed at distill\.terms\[0\]"):
        bind_all([term(path="distill.terms[0]"), term(path="distill.terms[2]", weight=2.0)], variables)
    assert len(bind_all([term(), term("l2", "logits", "teacher_logits")], variables)) == 2


def test_tensor_arguments_are_bound_by_name(variables):
    table = {**LOSSES, "scaled": scaled}
    bound = bind(term("scaled", args={"by": "label", "power": "teacher_big", "gain": 2}), variables, table)
    assert bound.arguments["by"].is_same(variables["label"])
    assert bound.arguments["power"].is_same(variables["teacher_big"])
    assert bound.arguments["gain"] == 2
    with pytest.raises(LossError, match=r"needs the argument 'by'; scaled\(student, teacher, \*, by: variable, "):
        bind(term("scaled"), variables, table)
    with pytest.raises(LossError, match=r"distill\.terms\[1\]\.by: expected the name of a variable, got 3"):
        bind(term("scaled", args={"by": 3}), variables, table)


def test_loss_that_is_not_a_scalar_is_refused(variables):
    def plain(student: Tensor, teacher: Tensor):
        return student - teacher

    with pytest.raises(LossError, match=r"loss 'plain' returned \[-1, 6, 4, 4\], expected a scalar"):
        bind(term("plain"), variables, {"plain": plain}).build()


def test_terms_from_config_prefix_the_teacher():
    cfg = DistillConfig(
        teachers={"teacher_": TeacherConfig(), "big_": TeacherConfig()},
        terms=(
            TermConfig("l2", ("head",), ("head",), weight=100),
            TermConfig("scaled", ("a",), ("b",), source=("big_",), args={"by": "c", "power": "d", "gain": 2.0}),
        ),
    )
    first, second = terms_from_config(cfg, {**LOSSES, "scaled": scaled})
    assert first == Term("l2", ("head",), ("teacher_head",), 100, {}, "distill.terms[0]")
    args = {"by": "c", "power": "big_d", "gain": 2.0}
    assert second == Term("scaled", ("a",), ("big_b",), 1.0, args, "distill.terms[1]", function=scaled)


def test_term_of_an_unknown_teacher_is_refused():
    cfg = DistillConfig({"teacher_": TeacherConfig()}, (TermConfig("l2", ("a",), ("a",), source=("techer_",)),))
    with pytest.raises(LossError, match=r"distill\.terms\[0\]\.from: no teacher 'techer_'; did you mean 'teacher_'\?"):
        terms_from_config(cfg)


def test_one_term_reads_the_variables_of_several_teachers():
    teachers = {"a_": TeacherConfig(), "b_": TeacherConfig()}
    one = TermConfig("multi_teacher_kd", ("logits",), ("logits",), source=("a_", "b_"), args={"confidence": "entropy"})
    (term,) = terms_from_config(DistillConfig(teachers, (one,)))
    assert term.teacher == ("a_logits", "b_logits")
    twice = replace(one, source=("a_", "a_"))
    with pytest.raises(LossError, match=r"distill\.terms\[0\]\.from: a teacher is given twice"):
        terms_from_config(DistillConfig(teachers, (twice,)))
    of_one = replace(one, loss="kd_bernoulli", args={"scale_by": "obj"})
    with pytest.raises(LossError, match=r"scale_by: is a variable of one teacher, and `from` has 2"):
        terms_from_config(DistillConfig(teachers, (of_one,)))
