"""The merged YOLOv3 training step by PaddleSlim's merge on stock Paddle and its legacy IR."""

import os
from collections.abc import Callable
from typing import Any

os.environ["FLAGS_enable_pir_api"] = "0"  # noqa: SIM112 it is Paddle's name

import paddle
import paddle.nn.functional as F
from _worker import ANCHORS, MASKS, NUM_CLASSES, arguments, make_batch, serve
from paddle import Tensor, nn, static
from paddle.base.layer_helper import LayerHelper
from paddle.utils import unique_name

PARTS = ("x", "y", "w", "h", "obj", "cls")


def conv_norm(x: Tensor, outputs: int, kernel: int, act: str, stride: int = 1, groups: int = 1) -> Tensor:
    x = nn.Conv2D(x.shape[1], outputs, kernel, stride, kernel // 2, groups=groups, bias_attr=False)(x)
    x = nn.BatchNorm2D(outputs)(x)
    if act == "relu":
        return F.relu(x)
    return F.leaky_relu(x, 0.1) if act == "leaky" else x


def mobilenet_v1(x: Tensor) -> list[Tensor]:
    """Feature maps of strides 32, 16 and 8."""
    x = conv_norm(x, 32, 3, "relu", 2)
    maps = {}
    blocks = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *((512, 1),) * 5, (1024, 2), (1024, 1))
    for number, (outputs, stride) in enumerate(blocks):
        x = conv_norm(x, x.shape[1], 3, "relu", stride, x.shape[1])
        x = maps[number] = conv_norm(x, outputs, 1, "relu")
    return [maps[12], maps[10], maps[4]]


def resnet34(x: Tensor) -> list[Tensor]:
    """Feature maps of strides 32, 16 and 8."""
    x = F.max_pool2d(conv_norm(x, 64, 7, "relu", 2), 3, 2, 1)
    maps = []
    for number, (count, outputs) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
        for i in range(count):
            stride = 2 if i == 0 and number else 1
            y = conv_norm(conv_norm(x, outputs, 3, "relu", stride), outputs, 3, "")
            x = F.relu((conv_norm(x, outputs, 1, "", stride) if i == 0 else x) + y)
        maps.append(x)
    return maps[:0:-1]


def yolo_heads(features: list[Tensor]) -> list[Tensor]:
    route, heads = None, []
    for i, (feature, mask) in enumerate(zip(features, MASKS, strict=True)):
        x = feature if route is None else paddle.concat([route, feature], 1)
        c = 512 >> i
        for _ in range(2):
            x = conv_norm(conv_norm(x, c, 1, "leaky"), 2 * c, 3, "leaky")
        x = conv_norm(x, c, 1, "leaky")
        heads.append(nn.Conv2D(2 * c, len(mask) * (5 + NUM_CLASSES), 1)(conv_norm(x, 2 * c, 3, "leaky")))
        route = F.interpolate(conv_norm(x, c // 2, 1, "leaky"), scale_factor=2, mode="nearest")
    return heads


def split(head: Tensor, cells: int) -> dict[str, Tensor]:
    """x, y, w, h, obj [N, A, g, g] and cls [N, A, g, g, C] of a raw map."""
    parts = paddle.reshape(head, [-1, 3, 5 + NUM_CLASSES, cells, cells])
    found = dict(zip(PARTS, paddle.unbind(parts[:, :, :5], 2), strict=False))
    return {**found, "cls": paddle.transpose(parts[:, :, 5:], [0, 1, 3, 4, 2])}


def bce(logit: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


def op(kind: str, x: Tensor, y: Tensor | None = None, **attributes: Any) -> Tensor:
    """One operator by its own name: the functions of Paddle 3.3 for these no longer take the legacy IR's variables."""
    helper = LayerHelper(kind)
    out = helper.create_variable_for_type_inference(x.dtype)
    inputs = {"X": [x]} if y is None else {"X": [x], "Y": [y]}
    helper.append_op(type=kind, inputs=inputs, outputs={"Out": [out]}, attrs=attributes)
    return out


def operator_loss(heads: list[Tensor], feeds: dict[str, Tensor]) -> Tensor:
    """The student's own loss by Paddle's operator, as the published l2 recipe has it."""
    total = 0
    for i, head in enumerate(heads):
        loss = paddle.vision.ops.yolo_loss(
            head,
            feeds["gt_bbox"],
            feeds["gt_class"],
            [v for anchor in ANCHORS for v in anchor],
            list(MASKS[i]),
            NUM_CLASSES,
            0.7,
            32 >> i,
            feeds["gt_score"],
            use_label_smooth=False,
        )
        total = total + paddle.mean(loss)
    return total


def graph_loss(parts: dict[str, Tensor], target: Tensor, bbox: Tensor, scale: int, size: int) -> Tensor:
    """The student's own loss of one scale from the targets of the cells, as the published objectness recipe has it."""
    cells = size // (32 >> scale)
    tx, ty, tw, th, weight, score = paddle.unbind(target[:, :, :6], 2)
    keep = background([parts[k].detach() for k in "xywh"], bbox, scale, size, cells)
    occupied = paddle.cast(score > 0, "float32")
    box = weight * score * (
        bce(parts["x"], tx) + bce(parts["y"], ty) + op("abs", parts["w"] - tw) + op("abs", parts["h"] - th)
    )  # fmt: skip
    objectness = bce(parts["obj"], occupied) * (score + (1 - occupied) * keep)
    classes = bce(parts["cls"], paddle.transpose(target[:, :, 6:], [0, 1, 3, 4, 2]))
    cells_loss = box + objectness + score * op("reduce_sum", classes, dim=[-1])
    return op("reduce_sum", cells_loss, reduce_all=True) / target.shape[0]


def background(boxes: list[Tensor], bbox: Tensor, scale: int, size: int, cells: int) -> Tensor:
    """1 [N, A, g, g] where the predicted box overlaps no ground truth by more than 0.7."""
    x, y, w, h = boxes
    sizes = paddle.to_tensor([ANCHORS[number] for number in MASKS[scale]], "float32") / size
    steps = paddle.arange(cells, dtype="float32")
    cx, cy = (op("sigmoid", x) + steps) / cells, (op("sigmoid", y) + paddle.reshape(steps, [-1, 1])) / cells
    pw = op("exp", w) * paddle.reshape(sizes[:, 0], [1, -1, 1, 1])
    ph = op("exp", h) * paddle.reshape(sizes[:, 1], [1, -1, 1, 1])
    mine = [paddle.unsqueeze(v, -1) for v in (cx - pw / 2, cy - ph / 2, cx + pw / 2, cy + ph / 2)]
    gx, gy, gw, gh = (paddle.reshape(v, [-1, 1, 1, 1, v.shape[1]]) for v in paddle.unbind(bbox, 2))
    theirs = (gx - gw / 2, gy - gh / 2, gx + gw / 2, gy + gh / 2)
    wide = F.relu(op("elementwise_min", mine[2], theirs[2]) - op("elementwise_max", mine[0], theirs[0]))
    high = F.relu(op("elementwise_min", mine[3], theirs[3]) - op("elementwise_max", mine[1], theirs[1]))
    inter = wide * high
    union = paddle.unsqueeze(pw * ph, -1) + gw * gh - inter
    return paddle.cast(op("reduce_max", inter - 0.7 * union, dim=[-1]) <= 0, "float32")


def objectness_distillation(s: dict[str, Tensor], t: dict[str, Tensor]) -> Tensor:
    """One scale of the objectness-scaled distillation loss."""
    scale = op("sigmoid", t["obj"])
    centre = bce(s["x"], op("sigmoid", t["x"])) + bce(s["y"], op("sigmoid", t["y"]))
    box = paddle.mean(scale * (centre + op("abs", s["w"] - t["w"]) + op("abs", s["h"] - t["h"])))
    classes = paddle.mean(paddle.unsqueeze(scale, -1) * bce(s["cls"], op("sigmoid", t["cls"])))
    return box + classes + paddle.mean(bce(s["obj"], paddle.cast(t["obj"] > 0, "float32")))


def build(variant: str, size: int, batch: int, recipe: str) -> Callable[[], float]:
    """The step: one batch through the merged program, losses, backward, update; returns the loss."""
    from paddleslim.dist import l2, merge

    paddle.enable_static()
    fine = recipe == "objectness"
    arrays = make_batch(batch, size, fine_grained=fine)
    place, executor = paddle.CPUPlace(), static.Executor(paddle.CPUPlace())

    def network(backbone: Callable[[Tensor], list[Tensor]]):  # noqa: ANN202
        main, startup = static.Program(), static.Program()
        with static.program_guard(main, startup), unique_name.guard():
            feeds = {n: static.data(n, list(a.shape), str(a.dtype)) for n, a in arrays.items()}
            heads = yolo_heads(backbone(feeds["image"]))
            parts = [split(head, size // (32 >> i)) for i, head in enumerate(heads)]
            if fine:
                own = sum(graph_loss(p, feeds[f"target{i}"], feeds["gt_bbox"], i, size) for i, p in enumerate(parts))
            else:
                own = operator_loss(heads, feeds)
        return main, startup, heads, parts, own

    teacher, its_startup, its_heads, its_parts, _ = network(resnet34)
    student, startup, heads, parts, own = network(mobilenet_v1)
    its_scope = static.Scope()
    executor.run(its_startup, scope=its_scope)
    executor.run(startup)
    same = {name: name for name in arrays}
    merge(teacher.clone(for_test=True), student, same, place, teacher_scope=its_scope)

    def of_teacher(value: Tensor) -> Tensor:
        return student.global_block().var(f"teacher_{value.name}")

    with static.program_guard(student, startup):
        if fine:
            pairs = zip(parts, its_parts, strict=True)
            terms = [1000.0 * objectness_distillation(s, {k: of_teacher(v) for k, v in t.items()}) for s, t in pairs]
        else:
            terms = [100.0 * l2(f"teacher_{t.name}", s.name, student) for s, t in zip(heads, its_heads, strict=True)]
        total = own + sum(terms)
        decay = paddle.regularizer.L2Decay(0.0005)
        momentum = paddle.optimizer.Momentum(1e-6, 0.9, weight_decay=decay)
        # What the optimizer itself keeps needs its first values; the networks have theirs and keep them.
        known = {p.name for p in startup.global_block().vars.values()}
        momentum.minimize(total)
        fresh = startup.clone()
        for op in reversed(range(len(fresh.global_block().ops))):
            if set(fresh.global_block().ops[op].output_arg_names) & known:
                fresh.global_block()._remove_op(op)
        executor.run(fresh)
    return lambda: float(executor.run(student, feed=arrays, fetch_list=[total])[0])


if __name__ == "__main__":
    chosen = arguments(("stock",))
    serve(build(chosen.variant, chosen.size, chosen.batch, chosen.recipe), chosen.steps)
