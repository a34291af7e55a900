"""The merged YOLOv3 training step written in plain PyTorch: ResNet34 teacher, MobileNetV1 student, their losses."""

import os
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from _worker import ANCHORS, MASKS, NUM_CLASSES, arguments, make_batch, serve
from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, kernel: int, act: str, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs, momentum=0.1),
    ]
    if act == "relu":
        layers.append(nn.ReLU(inplace=True))
    elif act == "leaky":
        layers.append(nn.LeakyReLU(0.1, inplace=True))
    return nn.Sequential(*layers)


class Backbone(nn.Module):
    """A stem and stages; the maps of the last three stages, strides 32, 16 and 8, are its features."""

    channels: tuple[int, int, int]
    stem: nn.Sequential
    stages: nn.ModuleList

    def forward(self, x: Tensor) -> list[Tensor]:
        x, features = self.stem(x), []
        for stage in self.stages:
            x = stage(x)
            features.append(x)
        return features[:-4:-1]


class MobileNetV1(Backbone):
    channels = (1024, 512, 256)
    STAGES = (
        ((64, 1), (128, 2), (128, 1), (256, 2)),
        ((256, 1), (512, 2)),
        (*((512, 1),) * 5, (1024, 2), (1024, 1)),
    )

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(3, 32, 3, "relu", 2)
        channels, stages = 32, []
        for blocks in self.STAGES:
            layers = []
            for outputs, stride in blocks:
                layers += [conv_norm(channels, channels, 3, "relu", stride, channels)]
                layers += [conv_norm(channels, outputs, 1, "relu")]
                channels = outputs
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, project: bool) -> None:
        super().__init__()
        self.a = conv_norm(inputs, outputs, 3, "relu", stride)
        self.b = conv_norm(outputs, outputs, 3, "")
        self.short = conv_norm(inputs, outputs, 1, "", stride) if project else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.short(x) + self.b(self.a(x)), inplace=True)


class ResNet34(Backbone):
    channels = (512, 256, 128)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_norm(3, 64, 7, "relu", 2), nn.MaxPool2d(3, 2, 1))
        stages, inputs = [], 64
        for number, (count, outputs) in enumerate(((3, 64), (4, 128), (6, 256), (3, 512))):
            blocks = []
            for i in range(count):
                stride = 2 if i == 0 and number else 1
                blocks.append(Block(inputs, outputs, stride, i == 0))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)


class YoloV3(nn.Module):
    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.blocks, self.tips, self.heads, self.transitions = (nn.ModuleList() for _ in range(4))
        extra = 0
        for i, (inputs, mask) in enumerate(zip(backbone.channels, MASKS, strict=True)):
            c = 512 >> i
            layers, inputs = [], inputs + extra
            for _ in range(2):
                layers += [conv_norm(inputs, c, 1, "leaky"), conv_norm(c, 2 * c, 3, "leaky")]
                inputs = 2 * c
            self.blocks.append(nn.Sequential(*layers, conv_norm(2 * c, c, 1, "leaky")))
            self.tips.append(conv_norm(c, 2 * c, 3, "leaky"))
            self.heads.append(nn.Conv2d(2 * c, len(mask) * (5 + NUM_CLASSES), 1))
            extra = c // 2
            if i < 2:
                self.transitions.append(conv_norm(c, extra, 1, "leaky"))

    def forward(self, x: Tensor) -> list[Tensor]:
        route, outputs = None, []
        for i, feature in enumerate(self.backbone(x)):
            x = feature if route is None else torch.cat([route, feature], 1)
            x = self.blocks[i](x)
            outputs.append(self.heads[i](self.tips[i](x)))
            if i < 2:
                route = F.interpolate(self.transitions[i](x), scale_factor=2.0, mode="nearest")
        return outputs


def split(head: Tensor) -> tuple[Tensor, ...]:
    """x, y, w, h, obj [N, A, g, g] and cls [N, A, g, g, C] of a raw map."""
    n, _, g, _ = head.shape
    parts = head.reshape(n, 3, 5 + NUM_CLASSES, g, g)
    return (*parts[:, :, :5].unbind(2), parts[:, :, 5:].permute(0, 1, 3, 4, 2))


def bce(logit: Tensor, target: Tensor) -> Tensor:
    return F.binary_cross_entropy_with_logits(logit, target, reduction="none")


class YoloLoss:
    """The student's own loss of one scale, from the targets of the cells."""

    def __init__(self, scale: int, size: int) -> None:
        sizes = torch.tensor([ANCHORS[number] for number in MASKS[scale]], dtype=torch.float32) / size
        self.w, self.h = (sizes[:, k].reshape(1, -1, 1, 1) for k in range(2))
        self.cells = size // (32 >> scale)
        steps = torch.arange(self.cells, dtype=torch.float32)
        self.column, self.row = steps.reshape(1, 1, 1, -1), steps.reshape(1, 1, -1, 1)

    def __call__(self, head: Tensor, target: Tensor, bbox: Tensor) -> Tensor:
        x, y, w, h, obj, cls = split(head)
        tx, ty, tw, th, scale, score = target[:, :, :6].unbind(2)
        keep = self.background(x.detach(), y.detach(), w.detach(), h.detach(), bbox)
        occupied = (score > 0).float()
        weight = scale * score
        box = weight * (bce(x, tx) + bce(y, ty) + (w - tw).abs() + (h - th).abs())
        objectness = bce(obj, occupied) * (score + (1 - occupied) * keep)
        classes = score * bce(cls, target[:, :, 6:].permute(0, 1, 3, 4, 2)).sum(-1)
        return (box.sum() + objectness.sum() + classes.sum()) / len(head)

    def background(self, x: Tensor, y: Tensor, w: Tensor, h: Tensor, bbox: Tensor) -> Tensor:
        """1 [N, A, g, g] where the predicted box overlaps no ground truth by more than 0.7."""
        cx, cy = (x.sigmoid() + self.column) / self.cells, (y.sigmoid() + self.row) / self.cells
        pw, ph = w.exp() * self.w, h.exp() * self.h
        mine = [v.unsqueeze(-1) for v in (cx - pw / 2, cy - ph / 2, cx + pw / 2, cy + ph / 2)]
        gx, gy, gw, gh = (v[:, None, None, None, :] for v in bbox.unbind(-1))
        theirs = (gx - gw / 2, gy - gh / 2, gx + gw / 2, gy + gh / 2)
        wide = (torch.minimum(mine[2], theirs[2]) - torch.maximum(mine[0], theirs[0])).clamp(min=0)
        high = (torch.minimum(mine[3], theirs[3]) - torch.maximum(mine[1], theirs[1])).clamp(min=0)
        inter = wide * high
        union = (pw * ph).unsqueeze(-1) + gw * gh - inter
        return ((inter - 0.7 * union).amax(-1) <= 0).float()


def objectness_distillation(student: Tensor, teacher: Tensor) -> Tensor:
    """One scale of the objectness-scaled distillation loss."""
    s, t = split(student), split(teacher)
    scale = t[4].sigmoid()
    centre = bce(s[0], t[0].sigmoid()) + bce(s[1], t[1].sigmoid())
    box = (scale * (centre + (s[2] - t[2]).abs() + (s[3] - t[3]).abs())).mean()
    classes = (scale.unsqueeze(-1) * bce(s[5], t[5].sigmoid())).mean()
    return box + classes + bce(s[4], (t[4] > 0).float()).mean()


def build(variant: str, size: int, batch: int, recipe: str) -> Callable[[], float]:
    """The step: one batch through teacher and student, losses, backward, update; returns the loss."""
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    student, teacher = YoloV3(MobileNetV1()), YoloV3(ResNet34()).eval().requires_grad_(False)
    layout = torch.channels_last if variant == "channels_last" else torch.contiguous_format
    student, teacher = student.to(memory_format=layout), teacher.to(memory_format=layout)
    optimizer = torch.optim.SGD(student.parameters(), 1e-6, 0.9, weight_decay=5e-4, fused=True)
    arrays = make_batch(batch, size, fine_grained=True)
    losses = [YoloLoss(i, size) for i in range(len(MASKS))]

    def step() -> float:
        # As in the other frameworks the batch comes as NumPy arrays.
        feeds = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        image = feeds["image"].to(memory_format=layout)
        with torch.no_grad():
            wanted = teacher(image)
        heads = student(image)
        total = sum(
            loss(h, feeds[f"target{i}"], feeds["gt_bbox"])
            for i, (loss, h) in enumerate(zip(losses, heads, strict=True))
        )
        if recipe == "l2":
            total = total + sum(100.0 * F.mse_loss(h, t) for h, t in zip(heads, wanted, strict=True))
        else:
            total = total + sum(1000.0 * objectness_distillation(h, t) for h, t in zip(heads, wanted, strict=True))
        optimizer.zero_grad(set_to_none=True)
        total.backward()
        optimizer.step()
        return float(total.detach())

    return step


if __name__ == "__main__":
    chosen = arguments(("plain", "channels_last"))
    serve(build(chosen.variant, chosen.size, chosen.batch, chosen.recipe), chosen.steps)
