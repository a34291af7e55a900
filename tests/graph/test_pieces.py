"""Long programs are edited piece by piece: the same numbers, names and fusions as in one go."""

import paddle
import pytest
from paddle.nn import functional as F

from slim_distill.graph import Freeze, FuseInference, Slice, _pir, run_passes
from slim_distill.graph.passes import _pieces
from tests.graph.nets import Runner, conv, detector, image, op_names, relative, traced, with_random_values

pytestmark = pytest.mark.usefixtures("static_mode")

OUTPUTS = ("head", "neck", "small", "dark")


def frozen(build=detector, keep=OUTPUTS):
    return with_random_values(run_passes(traced(build), [Freeze(), Slice(keep)]).program)


def pieces_of(program, monkeypatch, longest):
    """How many programs `edit` is given, and the program afterwards."""
    monkeypatch.setattr(_pieces, "_LONGEST", longest)
    lengths = []
    copy, look_up = _pir.clone_program(program.main)
    given = {name: look_up(program[name]) for name in OUTPUTS if name in program.variables}
    kept = _pieces.edit_in_pieces(copy, given, lambda piece: lengths.append(len(_pir.ops(piece))))
    return lengths, copy, kept


@pytest.mark.parametrize("longest", [1, 4, 9])
def test_fused_in_pieces_is_what_is_fused_in_one_go(monkeypatch, longest):
    program = frozen()
    whole = run_passes(program, [FuseInference(OUTPUTS)])
    lengths, *_ = pieces_of(program, monkeypatch, longest)
    assert len(lengths) > 1
    parted = run_passes(program, [FuseInference(OUTPUTS)])
    assert sorted(op_names(parted.program)) == sorted(op_names(whole.program))
    assert set(parted.program.variables) >= set(OUTPUTS)
    first, second = Runner(whole.program), Runner(parted.program)
    for _ in range(2):
        for a, b in zip(second(image(), *OUTPUTS), first(image(), *OUTPUTS), strict=True):
            assert relative(a, b) < 1e-6


def test_an_edit_that_does_nothing_changes_nothing(monkeypatch):
    program = frozen()
    lengths, copy, kept = pieces_of(program, monkeypatch, 1)
    assert len(lengths) > 3
    assert sorted(op.name() for op in _pir.ops(copy)) == sorted(op_names(program))
    for name, value in kept.items():
        assert _pir.op_tag(value.get_defining_op()) == _pir.op_tag(program[name].get_defining_op())


def test_lists_of_tensors_are_never_parted(monkeypatch):
    def build(x, *, training):
        y = conv(x, "a", 4)
        return {"head": F.relu(paddle.concat([conv(y, "b", 4), conv(y, "c", 4), y], axis=1))}

    program = frozen(build, keep=("head",))
    monkeypatch.setattr(_pieces, "_STARTS", set(op_names(program)))  # a cut before every operator, if it may be
    lengths, copy, _ = pieces_of(program, monkeypatch, 1)
    assert len(lengths) == sum(name not in _pieces._SOURCES for name in op_names(program)) - 1  # combine and concat
    assert sorted(op.name() for op in _pir.ops(copy)) == sorted(op_names(program))


def test_control_flow_is_left_in_one_piece(monkeypatch):
    def build(x, *, training):
        y = conv(conv(x, "a", 4), "b", 4)
        return {"head": paddle.static.nn.cond(paddle.mean(x) > 0, lambda: conv(y, "c", 4), lambda: y * 2.0)}

    program = frozen(build, keep=("head",))
    lengths, *_ = pieces_of(program, monkeypatch, 1)
    assert len(lengths) == 1


def test_a_short_program_is_one_piece(monkeypatch):
    lengths, *_ = pieces_of(frozen(), monkeypatch, 500)
    assert len(lengths) == 1
