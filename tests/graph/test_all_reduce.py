"""Averaging inside the program, on one process: pieces of a batch, buckets, statistics. Ranks: tests/reliability."""

from dataclasses import replace

import numpy as np
import paddle
import pytest
from paddle import static

from slim_distill.common.errors import GraphError
from slim_distill.common.specs import FeedSpec, ModelSpec
from slim_distill.config.schema import OptimizerConfig
from slim_distill.engine.session import Session
from slim_distill.engine.training import LEARNING_RATE, build_training
from slim_distill.graph import SHARE, AllReduce, _pir, piece, run_passes, trace

pytestmark = pytest.mark.usefixtures("static_mode")

OPTIMIZER = OptimizerConfig(momentum=0.9, weight_decay=0.01, ema=0.9, clip_norm=0.5)


def net(*, norm=False, memory=False):
    """Two linear layers, with a batch norm between or a parameter that remembers where asked for."""

    def build(feeds):
        weight = lambda name, shape: static.create_parameter(shape, "float32", attr=paddle.ParamAttr(name=name))  # noqa: E731
        h = paddle.matmul(feeds["x"], weight("first_weights", [6, 4]))
        if norm:
            h = paddle.nn.BatchNorm1D(4)(h)
        logits = paddle.matmul(paddle.tanh(h), weight("second_weights", [4, 3])) + weight("bias", [3])
        loss = paddle.mean((logits - feeds["y"]) ** 2)
        if memory:
            kept = weight("memory", [3])
            kept.stop_gradient, kept.trainable = True, False
            paddle.assign(logits.mean(0), kept)
        return {"logits": logits, "loss": loss}

    return ModelSpec({"x": FeedSpec((None, 6)), "y": FeedSpec((None, 3))}, build)


def reduced(training, **options):
    options = {"ranks": 1, **options}
    return run_passes(training.program, [AllReduce(training.gradients, tuple(training.losses.values()), **options)])


def batch(step, count=7):
    rng = np.random.RandomState(step)
    return {"x": rng.randn(count, 6).astype("float32"), "y": rng.randn(count, 3).astype("float32")}


def names_of(program):
    return [op.name() for op in _pir.ops(program.main)]


@pytest.mark.parametrize("bucket_mb", [0, 16])
def test_pieces_of_any_size_give_the_update_of_the_whole_batch(bucket_mb):
    training = build_training(trace(net()), (), OPTIMIZER)
    last = reduced(training, pieces=3, bucket_mb=bucket_mb).program
    first = piece(last)
    assert "pd_op.momentum_" in names_of(last)
    assert not {"pd_op.momentum_", "pd_op.lerp_"} & set(names_of(first))
    whole, parts = Session("cpu"), Session("cpu")
    whole.start(training.program, 3)
    parts.start(last, 3)
    fetch = ["loss", "first_weights@GRAD"]
    for step in range(4):
        for session in (whole, parts):
            session.write({LEARNING_RATE: np.float32(0.1)})
        expected = whole.run(training.program, batch(step), fetch)
        for begin, end, program in ((0, 3, first), (3, 6, first), (6, 7, last)):
            parts.write({SHARE: np.float32((end - begin) / 7)})
            part = {name: array[begin:end] for name, array in batch(step).items()}
            got = parts.run(program, part, fetch if program is last else [])
        for name in fetch:
            np.testing.assert_allclose(got[name], expected[name], rtol=1e-5, atol=1e-7)
    names = (*training.student, *training.state)
    a, b = whole.read(names), parts.read(names)
    for name in names:
        np.testing.assert_allclose(b[name], a[name], rtol=1e-5, atol=1e-7)


def test_buckets_hold_gradients_in_the_order_of_the_backward_pass_and_are_reduced_there():
    training = build_training(trace(net()), (), OptimizerConfig())
    names = ("first_weights", "bias", "second_weights")  # any order; the backward pass ends with the first
    training = replace(training, gradients={name: training.gradients[name] for name in names})
    result = reduced(training, ranks=2, bucket_mb=24 * 4 / 2**20)  # room for 24 numbers; there are 3, 12 and 24
    assert result.counts == {"gradients averaged": 3, "buckets": 2}
    shapes = [tuple(result.program[f"all_reduce.{i}.part"].shape) for i in range(2)]
    assert shapes == [(15,), (24,)]
    names = names_of(result.program)
    reductions = [i for i, name in enumerate(names) if name == "pd_op.all_reduce_"]
    matrices = [i for i, name in enumerate(names) if name == "pd_op.matmul_grad"]
    assert len(reductions) == 3  # the third: the loss
    assert matrices[0] < reductions[0] < matrices[1]
    assert len([n for n in names_of(reduced(training, ranks=2, bucket_mb=0).program) if n == "pd_op.all_reduce_"]) == 4
    assert "pd_op.all_reduce_" not in names_of(training.program)


def test_the_update_reads_the_averaged_gradient_and_the_backward_pass_the_loss_of_the_part():
    training = build_training(trace(net()), (), OptimizerConfig())
    result = reduced(training, ranks=2).program
    for op in _pir.ops(result.main):
        if op.name() == "pd_op.momentum_":
            name = _pir.parameter_name(op.operand_source(0))
            assert op.operand_source(1).is_same(result[f"{name}@GRAD"])
            assert op.operand_source(1).get_defining_op().name() == "pd_op.reshape"
        if op.name() == "pd_op.mean_grad":
            below = op.operand_source(1).get_defining_op().operand_source(0)
            assert not below.is_same(result["loss"])


def test_running_statistics_are_averaged_over_ranks_only_where_they_move():
    training = build_training(trace(net(norm=True)), (), OptimizerConfig())
    assigned = lambda program: [  # noqa: E731
        _pir.parameter_name(op.operand_source(1)) for op in _pir.ops(program.main) if op.name() == "pd_op.assign_out_"
    ]
    moving = [name for name in training.student if name not in training.gradients]
    assert len(moving) == 2
    assert sorted(assigned(reduced(training, ranks=2).program)) == sorted(moving)
    assert not set(assigned(reduced(training, pieces=2).program)) & set(moving)
    for op in _pir.ops(training.program.main):
        if op.name() == "pd_op.batch_norm_":
            op.set_bool_attr("use_global_stats", True)
    assert assigned(reduced(training, ranks=2).program) == []


def test_one_process_with_whole_batches_is_left_as_it_is_and_a_second_run_changes_nothing():
    training = build_training(trace(net()), (), OptimizerConfig())
    assert not reduced(training).changed
    once = reduced(training, ranks=2)
    again = run_passes(once.program, [AllReduce(training.gradients, ("loss",), ranks=2)])
    assert once.changed
    assert not again.changed
    with pytest.raises(GraphError, match=r"not made for batches in several pieces; use AllReduce\(pieces=K\)"):
        piece(once.program)


def test_what_is_kept_from_step_to_step_must_not_depend_on_the_part():
    training = build_training(trace(net(memory=True)), (), OptimizerConfig())
    for options in ({"ranks": 2}, {"pieces": 2}):
        with pytest.raises(GraphError, match=r"memory: computed from the batch and kept .* parallel.accumulate: 1"):
            reduced(training, **options)
