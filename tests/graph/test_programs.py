"""Tracing, naming and merging on small programs built by hand."""

import numpy as np
import paddle
import pytest
from paddle import static
from paddle.nn import functional as F

from slim_distill.common.errors import GraphError, VariableNotFoundError
from slim_distill.common.specs import FeedSpec, ModelSpec
from slim_distill.graph import Freeze, NamedProgram, Slice, layer_name, merge, run_passes, trace

pytestmark = pytest.mark.usefixtures("static_mode")

X = np.random.RandomState(0).randn(3, 4, 6, 6).astype("float32")


def parameter(name, shape, value=None, trainable=True):
    init = paddle.nn.initializer.Normal(0.0, 0.3) if value is None else paddle.nn.initializer.Constant(value)
    created = static.create_parameter(
        shape, "float32", attr=paddle.ParamAttr(name=name, initializer=init, trainable=trainable)
    )
    created.stop_gradient = not trainable
    return created


def conv_net(x, *, extra=False):
    """conv + bias, batch norm, relu, dropout, pooled linear: 10 operators with every kind of state."""
    if extra:
        paddle.tanh(x)
    h = F.conv2d(x, parameter("head.conv.weights", [5, 4, 3, 3]), parameter("head.conv.bias", [5]))
    raw = h
    h = F.batch_norm(
        h,
        parameter("bn_mean", [5], 0.1, trainable=False),
        parameter("bn_variance", [5], 2.0, trainable=False),
        parameter("bn_scale", [5], 1.5),
        parameter("bn_offset", [5], 0.2),
        training=True,
    )
    h = F.dropout(F.relu(h), 0.5)
    pooled = paddle.mean(h, axis=[2, 3])
    logits = paddle.matmul(pooled, parameter("fc_weights", [5, 2]))
    loss = paddle.mean(logits * logits)
    return {"raw": raw, "conv2d_0.tmp_1": raw, "logits": logits, "loss": loss}


def spec(feed="image", **kwargs):
    return ModelSpec({feed: FeedSpec((None, 4, 6, 6))}, lambda feeds: conv_net(feeds[feed], **kwargs))


def run(program: NamedProgram, fetch, feed=None, scope=None, start=True):
    exe = static.Executor(paddle.CPUPlace())
    with static.scope_guard(scope or static.global_scope()):
        if start:
            exe.run(program.startup)
        for name, array in program.values.items():
            static.global_scope().find_var(name).get_tensor().set(array, paddle.CPUPlace())
        return exe.run(program.main, feed=dict(feed or {"image": X}), fetch_list=[program[n] for n in fetch])


def op_names(program):
    return [op.name() for op in program.main.global_block().ops]


class TestNames:
    def test_a_given_name_is_canonical_and_a_second_one_an_alias(self):
        program = trace(spec())
        assert program.canonical("conv2d_0.tmp_1") == "raw"
        assert program["conv2d_0.tmp_1"].is_same(program["raw"])

    def test_other_values_are_named_after_their_layer_or_operator(self):
        program = trace(spec())
        assert program["head.conv.tmp_0"].get_defining_op().name() == "pd_op.conv2d"
        assert program["bn.tmp_0"].get_defining_op().name() == "pd_op.batch_norm_"
        assert program["relu_0.tmp_0"].get_defining_op().name() == "pd_op.relu"

    def test_bias_add_follows_its_convolution(self):
        def build(feeds):
            y = F.conv2d(feeds["x"], parameter("head.weights", [2, 4, 1, 1]), parameter("head.bias", [2]))
            return {"z": paddle.tanh(y)}

        program = trace(ModelSpec({"x": FeedSpec((None, 4, 6, 6))}, build))
        assert program["head.tmp_0"].get_defining_op().name() == "pd_op.conv2d"
        assert program["head.tmp_1"].is_same(program["z"].get_defining_op().operand_source(0))

    def test_tracing_twice_gives_the_same_names(self):
        first, second = trace(spec()), trace(spec())
        assert list(first.variables) == list(second.variables)
        assert dict(first.aliases) == dict(second.aliases)

    def test_an_unrelated_branch_leaves_given_and_layer_names_alone(self):
        plain, extended = trace(spec()), trace(spec(extra=True))
        kept = [n for n in plain.variables if n.startswith(("head.", "bn", "fc", "raw", "logits", "loss"))]
        assert len(kept) > 8
        for name in kept:
            assert plain[name].get_defining_op().name() == extended[name].get_defining_op().name()

    def test_every_value_has_exactly_one_canonical_name(self):
        program = trace(spec())
        ids = [v.id for v in program.variables.values()]
        count = sum(1 for op in program.main.global_block().ops for v in op.results() if v.initialized())
        assert len(ids) == len(set(ids)) == count

    def test_unknown_name_shows_nearest_with_shape(self):
        with pytest.raises(
            VariableNotFoundError, match=r"no variable 'logit'.*logits \[-1, 2\].*did you mean 'logits'"
        ):
            trace(spec())["logit"]

    def test_one_name_for_two_values_is_refused(self):
        def build(feeds):
            return {"head_weights": paddle.tanh(paddle.matmul(feeds["x"], parameter("head_weights", [4, 4])))}

        with pytest.raises(GraphError, match="'head_weights' stands for two variables"):
            trace(ModelSpec({"x": FeedSpec((None, 4))}, build))

    @pytest.mark.parametrize(
        ("parameter_name", "layer"),
        [
            ("yolo_output.0.conv.weights", "yolo_output.0.conv"),
            ("conv1_weights", "conv1"),
            ("res2a_branch2a_weights", "res2a_branch2a"),
            ("conv2d_3.w_0", "conv2d_3"),
        ],
    )
    def test_layer_name(self, parameter_name, layer):
        assert layer_name(parameter_name) == layer

    def test_a_model_that_returns_an_array_is_refused(self):
        with pytest.raises(GraphError, match="returned ndarray as 'y'"):
            trace(ModelSpec({"x": FeedSpec((None, 4))}, lambda feeds: {"y": np.zeros(3)}))


class TestFreezeAndSlice:
    def test_freeze_stops_training_and_leaves_the_input_alone(self):
        program = trace(spec())
        result = run_passes(program, [Freeze()])
        assert result.changed
        assert result.program.trainable() == {}
        assert result.program.frozen
        assert set(program.trainable()) == {
            "head.conv.weights",
            "head.conv.bias",
            "bn_scale",
            "bn_offset",
            "fc_weights",
        }
        again = run_passes(result.program, [Freeze()])
        assert not again.changed
        assert again.notes == ()

    def test_frozen_program_repeats_itself_and_keeps_its_statistics(self):
        frozen = run_passes(trace(spec()), [Freeze()]).program
        scope = static.Scope()
        first = run(frozen, ["logits", "bn_mean"], scope=scope)
        second = run(frozen, ["logits", "bn_mean"], scope=scope, start=False)
        np.testing.assert_array_equal(first[0], second[0])
        np.testing.assert_array_equal(second[1], np.full(5, 0.1, "float32"))

    def test_freeze_reaches_into_control_flow(self):
        def build(feeds):
            x = feeds["x"]
            return {"y": static.nn.cond(paddle.mean(x) > 0, lambda: F.dropout(x, 0.5), lambda: x * 2.0)}

        frozen = run_passes(trace(ModelSpec({"x": FeedSpec((None, 4))}, build)), [Freeze()]).program
        x = np.ones((8, 4), "float32")
        np.testing.assert_array_equal(run(frozen, ["y"], {"x": x})[0], x)

    def test_freeze_refuses_a_program_with_a_backward_pass(self):
        program = trace(spec())
        with static.program_guard(program.main, program.startup):
            paddle.optimizer.SGD(0.1).minimize(program["loss"])
        with pytest.raises(GraphError, match=r"pass freeze: operator pd_op\.\w+_grad"):
            run_passes(program, [Freeze()])

    def test_slice_keeps_only_what_is_needed(self):
        program = trace(spec())
        result = run_passes(program, [Slice(("raw",))])
        assert result.changed
        assert [n for n in op_names(result.program) if n.startswith("pd_op")] == [
            "pd_op.data",
            "pd_op.conv2d",
            "pd_op.full_int_array",
            "pd_op.reshape",
            "pd_op.add",
        ]
        assert set(result.program.parameters()) == {"head.conv.weights", "head.conv.bias"}
        assert "loss" not in result.program
        assert result.program.canonical("conv2d_0.tmp_1") == "raw"
        set_parameters = [o for o in result.program.startup.global_block().ops if o.name() == "builtin.set_parameter"]
        assert len(set_parameters) == 2
        assert not run_passes(result.program, [Slice(("raw",))]).changed
        assert "loss" in program

    def test_slice_leaves_numbers_alone(self):
        program = run_passes(trace(spec()), [Freeze()]).program
        scope = static.Scope()
        whole = run(program, ["raw"], scope=scope)[0]
        part = run(run_passes(program, [Slice(("raw",))]).program, ["raw"], scope=scope, start=False)[0]
        np.testing.assert_array_equal(part, whole)

    def test_slice_drops_unused_feeds(self):
        def build(feeds):
            return {"a": paddle.tanh(feeds["x"]), "b": paddle.mean(feeds["label"])}

        program = trace(ModelSpec({"x": FeedSpec((None, 4)), "label": FeedSpec((None, 1))}, build))
        assert list(run_passes(program, [Slice(("a",))]).program.feeds) == ["x"]

    def test_slice_of_an_unknown_name_is_refused_with_the_pass_named(self):
        with pytest.raises(VariableNotFoundError, match=r"pass slice \(after freeze\): no variable 'rew'.*'raw'"):
            run_passes(trace(spec()), [Freeze(), Slice(("rew",))])


class TestMerge:
    def guest(self, feed="image"):
        return run_passes(trace(spec(feed)), [Freeze(), Slice(("raw", "logits"))]).program

    def test_guest_numbers_are_bit_identical_and_names_prefixed(self):
        guest = self.guest()
        scope = static.Scope()
        alone = run(guest, ["raw", "logits"], scope=scope)
        arrays = {n: np.array(scope.find_var(n).get_tensor()) for n in guest.parameters()}
        merged = merge(trace(spec()), guest.with_values(arrays))
        inside = run(merged, ["teacher_conv2d_0.tmp_1", "teacher_logits"])
        for a, b in zip(alone, inside, strict=True):
            np.testing.assert_array_equal(a, b)
        assert merged.guests == {"teacher_": True}
        assert set(merged.feeds) == {"image"}

    def test_inputs_are_untouched(self):
        host, guest = trace(spec()), self.guest()
        before = op_names(host), op_names(guest)
        merge(host, guest)
        assert (op_names(host), op_names(guest)) == before

    def test_no_guest_parameter_trains_and_none_moves(self):
        merged = merge(trace(spec()), self.guest())
        with static.program_guard(merged.main, merged.startup):
            loss = paddle.mean((merged["logits"] - merged["teacher_logits"]) ** 2)
            _, pairs = paddle.optimizer.Momentum(0.5, 0.9).minimize(loss)
        assert len(pairs) == 5
        exe = static.Executor(paddle.CPUPlace())
        exe.run(merged.startup)
        read = lambda: {n: np.array(static.global_scope().find_var(n).get_tensor()) for n in merged.parameters()}  # noqa: E731
        before = read()
        for _ in range(3):
            exe.run(merged.main, feed={"image": X}, fetch_list=[loss])
        after = read()
        moved = {n for n in before if not np.array_equal(before[n], after[n])}
        assert {n for n in moved if n.startswith("teacher_")} == set()
        assert {"head.conv.weights", "head.conv.bias", "bn_scale", "bn_mean", "fc_weights"} <= moved

    def test_two_guests_of_one_architecture_do_not_clash(self):
        merged = merge(merge(trace(spec()), self.guest(), "a_"), self.guest(), "b_")
        assert merged.guests == {"a_": True, "b_": True}
        assert {"a_fc_weights", "b_fc_weights", "fc_weights"} <= set(merged.parameters())
        a, b = run(merged, ["a_logits", "b_logits"])
        assert not np.array_equal(a, b)

    def test_unfrozen_guests_train_too(self):
        merged = merge(trace(spec()), trace(spec()), "peer_")
        assert {n for n in merged.trainable() if n.startswith("peer_")} == {
            "peer_" + n for n in trace(spec()).trainable()
        }

    def test_learning_rate_and_decay_marks_survive(self):
        def build(feeds):
            w = static.create_parameter(
                [4, 2],
                "float32",
                attr=paddle.ParamAttr(name="w", learning_rate=0.25, regularizer=paddle.regularizer.L2Decay(0.125)),
            )
            return {"y": paddle.matmul(feeds["x"], w)}

        def make():
            return trace(ModelSpec({"x": FeedSpec((None, 4))}, build))

        merged = merge(make(), make())
        for name in ("w", "teacher_w"):
            value = merged.parameters()[name]
            assert value.optimize_attr == {"learning_rate": 0.25}
            assert value.regularizer._coeff == 0.125

    def test_feed_map_joins_feeds_of_different_names(self):
        merged = merge(trace(spec()), self.guest("img"), feed_map={"img": "image"})
        assert set(merged.feeds) == {"image"}
        assert merged.canonical("teacher_img") == "image"

    def test_unjoined_feed_becomes_a_feed_under_the_prefix(self):
        merged = merge(trace(spec()), self.guest("img"))
        assert set(merged.feeds) == {"image", "teacher_img"}
        out = run(merged, ["teacher_raw"], {"image": X, "teacher_img": X})[0]
        assert out.shape == (3, 5, 4, 4)

    def test_control_flow_guest_runs_the_same_inside(self):
        def build(feeds):
            x = feeds["image"]
            w = parameter("w", [4, 4])
            h = paddle.matmul(paddle.mean(x, axis=[2, 3]), w)
            y = static.nn.cond(paddle.mean(h) > 0, lambda: paddle.matmul(h, w), lambda: -h)
            step = paddle.full([1], 0, "int64")
            _, y = static.nn.while_loop(lambda i, v: i < 3, lambda i, v: [i + 1, paddle.tanh(v)], [step, y])
            return {"y": y}

        guest = run_passes(trace(ModelSpec({"image": FeedSpec((None, 4, 6, 6))}, build)), [Freeze()]).program
        scope = static.Scope()
        alone = run(guest, ["y"], scope=scope)[0]
        arrays = {"w": np.array(scope.find_var("w").get_tensor())}
        merged = merge(trace(spec()), guest.with_values(arrays))
        np.testing.assert_array_equal(run(merged, ["teacher_y"])[0], alone)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"prefix": ""}, "prefix is empty"),
            ({"feed_map": {"imag": "image"}}, "the guest has no feed 'imag'.*nearest: image"),
            ({"feed_map": {"image": "logits"}}, r"feed 'image' is .*\[-1, 4, 6, 6\].*'logits' is .*\[-1, 2\]"),
        ],
    )
    def test_refusals(self, kwargs, message):
        with pytest.raises(GraphError, match=message):
            merge(trace(spec()), self.guest(), **kwargs)

    def test_a_prefix_used_twice_is_refused(self):
        once = merge(trace(spec()), self.guest())
        with pytest.raises(GraphError, match="'teacher_' is in use"):
            merge(once, self.guest())

    def test_values_of_wrong_name_or_shape_are_refused(self):
        with pytest.raises(GraphError, match=r"no parameter 'fc_weight'.*fc_weights"):
            trace(spec()).with_values({"fc_weight": np.zeros((5, 2), "float32")})
        with pytest.raises(GraphError, match=r"'fc_weights' has shape \[5, 2\], the given array \[2, 5\]"):
            trace(spec()).with_values({"fc_weights": np.zeros((2, 5), "float32")})
