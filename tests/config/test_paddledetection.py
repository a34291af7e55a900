"""The dialect of PaddleDetection 0.x."""

import logging
from pathlib import Path

import pytest

from slim_distill.common.errors import ConfigError
from slim_distill.config import TermConfig, TransformConfig, default_terms, load_config
from slim_distill.config.dialects._keys import FIXED, HARMLESS, USED
from tests.config.samples import CONFIGS, FOREIGN, READER, write_foreign

RESNET = "{norm_type: sync_bn, freeze_at: 0, freeze_norm: false, norm_decay: 0., depth: 34, feature_maps: [3, 4, 5]"


def test_sections_of_our_own_dialect_stand_beside_the_published_keys(tmp_path):
    (tmp_path / "run.yml").write_text(FOREIGN)
    (tmp_path / "reader.yml").write_text(READER)
    cfg = load_config(tmp_path / "run.yml", ["distill.force=true", "compile.placement=stock"])
    assert cfg.distill.force
    assert [term.loss for term in cfg.distill.terms] == ["l2"] * 3  # the published recipe is still there
    assert cfg.compile.placement == "stock"
    with pytest.raises(ConfigError, match=r"distill\.forse"):
        load_config(tmp_path / "run.yml", ["distill.forse=true"])


def load(folder: Path, *overrides: str, old: str = "", new: str = ""):
    assert old in FOREIGN
    return load_config(write_foreign(folder, FOREIGN.replace(old, new) if old else FOREIGN), overrides)


# reading


def test_translates_a_file_with_its_reader(tmp_path: Path):
    cfg = load(tmp_path)
    assert cfg.name == "foreign"
    assert (cfg.model.num_classes, cfg.model.backbone.type, cfg.model.backbone.norm_type) == (
        4,
        "mobilenet_v1",
        "sync_bn",
    )
    assert (cfg.train.max_iters, cfg.eval.metric, cfg.eval.map_type, cfg.device) == (100, "voc", "11point", "auto")
    assert (cfg.schedule.type, cfg.schedule.milestones, cfg.schedule.gamma, cfg.schedule.factors) == (
        "piecewise", (60, 80), 0.1, (),
    )  # fmt: skip
    assert (cfg.schedule.warmup_steps, cfg.schedule.warmup_start_factor) == (10, 0.0)
    assert (cfg.optimizer.momentum, cfg.optimizer.weight_decay, cfg.optimizer.clip_norm) == (0.9, 0.0005, 0.0)


def test_keys_of_the_file_win_over_its_reader_file_one_by_one(tmp_path: Path):
    train = load(tmp_path).data.train
    assert (train.dataset.format, train.dataset.root, train.dataset.annotations) == (
        "voc",
        "dataset/signs",
        "train.txt",
    )
    assert train.dataset.images == ""  # the data set replaces the one of the reader file whole
    assert (train.batch_size, train.shuffle, train.workers) == (8, True, 4)
    assert train.transforms == (
        TransformConfig("DecodeImage", {"to_rgb": True}),
        TransformConfig("PadBox", {"num_max_boxes": 50}),
    )


def test_defaults_are_those_of_paddledetection(tmp_path: Path):
    cfg = load(tmp_path, old="YOLOv3Loss: {ignore_thresh: 0.7, label_smooth: false}\n", new="")
    assert cfg.model.loss.label_smooth is True
    assert (cfg.data.train.drop_empty, cfg.data.eval.drop_empty) == (True, False)
    assert (cfg.data.eval.batch_size, cfg.data.eval.workers, cfg.data.eval.shuffle) == (1, 0, False)
    assert cfg.model.head.nms.nms_top_k == 1000
    cfg = load(tmp_path, "YOLOv3Head.nms={nms_threshold: 0.4}")  # other keys are those of MultiClassNMS then
    assert (cfg.model.head.nms.nms_top_k, cfg.model.head.nms.background_label) == (-1, 0)


@pytest.mark.parametrize(
    ("extra", "labels"),
    [("", "label_list.txt"), ("    use_default_label: true\n", "voc"), ("    label_list: names.txt\n", "names.txt")],
)
def test_labels_of_voc_data(tmp_path: Path, extra: str, labels: str):
    path = write_foreign(tmp_path, FOREIGN + extra)
    assert load_config(path).data.train.dataset.labels == labels


@pytest.mark.parametrize(
    ("metric", "classes", "folder", "labels", "annotations"),
    [
        ("VOC", 4, "{anno_path: a/label_list.txt, with_background: false}", "a/label_list.txt", ""),
        ("VOC", 20, "{use_default_label: true, with_background: false}", "voc", ""),
        ("COCO", 80, "{anno_path: annotations/instances_val2017.json, with_background: false}", "coco", ""),
        ("COCO", 80, "{with_background: false}", "coco", ""),
        ("COCO", 4, "{anno_path: a/valid.json, with_background: false}", "", "a/valid.json"),
    ],
)
def test_class_names_for_inference(
    tmp_path: Path, metric: str, classes: int, folder: str, labels: str, annotations: str
):
    overrides = [f"metric={metric}", f"num_classes={classes}", f"TestReader.dataset=!ImageFolder {folder}"]
    dataset = load(tmp_path, *overrides).data.test.dataset
    assert (dataset.format, dataset.labels, dataset.annotations) == ("images", labels, annotations)


@pytest.mark.parametrize(
    ("backbone", "section", "expected"),
    [
        (
            "MobileNet",
            "{conv_group_scale: 0.5, norm_decay: 0.1}",
            {"type": "mobilenet_v1", "scale": 0.5, "norm_decay": 0.1},
        ),
        (
            "MobileNet",
            "{weight_prefix_name: a_, conv_decay: 0.1}",
            {"prefix": "a_", "conv_decay": 0.1, "norm_type": "bn"},
        ),
        ("ResNet", RESNET + "}", {"type": "resnet", "depth": 34, "variant": "b", "freeze_at": 0, "freeze_norm": False}),
        ("ResNet", RESNET + ", variant: d}", {"variant": "d"}),
        ("ResNet", "{depth: 18, norm_type: bn}", {"depth": 18, "freeze_at": 2, "freeze_norm": True}),
        ("DarkNet", "{depth: 53, norm_type: sync_bn}", {"type": "darknet", "depth": 53, "norm_type": "sync_bn"}),
        (
            "MobileNetV3",
            "{model_name: large, scale: 1., extra_block_filters: [], feature_maps: [1, 2, 3, 4, 6]}",
            {"type": "mobilenet_v3", "model_name": "large", "scale": 1.0, "conv_decay": None},
        ),
    ],
)
def test_backbones(tmp_path: Path, backbone: str, section: str, expected: dict):
    text = FOREIGN.replace("backbone: MobileNet", f"backbone: {backbone}")
    lines = [line for line in text.splitlines() if not line.startswith("MobileNet:")]
    path = write_foreign(tmp_path, "\n".join([*lines, f"{backbone}: {section}\n"]))
    config = load_config(path).model.backbone
    assert {key: getattr(config, key) for key in expected} == expected


def test_keys_shared_at_the_top_level(tmp_path: Path):
    cfg = load(tmp_path, "weight_prefix_name=a_", "norm_type=bn")
    assert (cfg.model.backbone.prefix, cfg.model.head.prefix) == ("a_", "a_")
    assert cfg.model.backbone.norm_type == "sync_bn"  # the section's own value wins


@pytest.mark.parametrize(
    ("section", "iou_loss"),
    [
        ("DiouLossYolo: {loss_weight: 5, max_height: 608}", {"type": "diou", "weight": 5.0, "square": False}),
        ("IouLoss: {}", {"type": "iou", "weight": 2.5, "square": True}),
        (
            "IouLoss: {loss_weight: 1, ciou_term: true, loss_square: false}",
            {"type": "ciou", "weight": 1.0, "square": False},
        ),
    ],
)
def test_iou_losses(tmp_path: Path, section: str, iou_loss: dict):
    kind = section.split(":")[0]
    path = write_foreign(tmp_path, FOREIGN + section + "\n")
    overrides = [f"YOLOv3Loss.iou_loss={kind}", "use_fine_grained_loss=true"]
    assert load_config(path, overrides).model.loss.iou_loss == iou_loss


def test_the_loss_keys_that_the_head_had_before_release_0_2(tmp_path: Path):
    cfg = load(tmp_path, old="YOLOv3Loss: {ignore_thresh: 0.7, label_smooth: false}\n", new="")
    assert cfg.model.loss.ignore_thresh == 0.7
    cfg = load(
        tmp_path,
        "YOLOv3Head.ignore_thresh=0.6",
        "YOLOv3Head.label_smooth=false",
        old="YOLOv3Loss: {ignore_thresh: 0.7, label_smooth: false}\n",
        new="",
    )
    assert (cfg.model.loss.ignore_thresh, cfg.model.loss.label_smooth) == (0.6, False)
    with pytest.raises(ConfigError, match=r"^YOLOv3Head\.ignore_thresh: is given in YOLOv3Loss as well"):
        load(tmp_path, "YOLOv3Head.ignore_thresh=0.6")


@pytest.mark.parametrize(
    ("schedulers", "expected"),
    [
        ("[!PiecewiseDecay {gamma: 0.1, milestones: [5, 9]}]", {"gamma": 0.1, "factors": (), "warmup_steps": 0}),
        ("[!PiecewiseDecay {gamma: [0.1, 0.01], milestones: [5, 9]}]", {"gamma": 0.1, "factors": ()}),
        ("[!PiecewiseDecay {gamma: [0.5, 0.25], milestones: [5, 9]}]", {"gamma": 0.5, "factors": ()}),
        ("[!PiecewiseDecay {gamma: [0.5, 0.1], milestones: [5, 9]}]", {"factors": (0.5, 0.1)}),
        # One gamma is divided by 10 from milestone to milestone.
        ("[!PiecewiseDecay {gamma: 0.5, milestones: [5, 9]}]", {"factors": (0.5, 0.05)}),
        ("[!CosineDecay {max_iters: 90}]", {"type": "cosine", "cosine_steps": 90, "milestones": ()}),
        ("[!CosineDecay {max_iters: 90}, !LinearWarmup {}]", {"warmup_steps": 500, "warmup_start_factor": 1 / 3}),
    ],
)
def test_schedules(tmp_path: Path, schedulers: str, expected: dict):
    schedule = load(tmp_path, f"LearningRate.schedulers={schedulers}").schedule
    assert {key: getattr(schedule, key) for key in expected} == expected


def test_optimizer_settings(tmp_path: Path):
    overrides = ["OptimizerBuilder.regularizer=null", "OptimizerBuilder.clip_grad_by_norm=10", "use_ema=true"]
    optimizer = load(tmp_path, *overrides, "ema_decay=0.99").optimizer
    assert (optimizer.weight_decay, optimizer.clip_norm, optimizer.ema) == (0.0, 10.0, 0.99)


# fine-grained loss


def test_fine_grained_loss_drives_loss_reader_and_recipe(tmp_path: Path):
    plain = load(tmp_path)
    assert not plain.model.loss.fine_grained
    assert [t.type for t in plain.data.train.batch_transforms] == ["RandomShape"]
    assert plain.distill.terms == default_terms(fine_grained=False)
    fine = load(tmp_path, "use_fine_grained_loss=true")
    assert fine.model.loss.fine_grained
    assert [t.type for t in fine.data.train.batch_transforms] == ["RandomShape", "Gt2YoloTarget"]
    assert fine.data.train.batch_transforms[1].args["num_classes"] == 4
    assert fine.distill.terms == default_terms(fine_grained=True)


def test_the_published_recipes():
    assert default_terms(False) == tuple(
        TermConfig("l2", (f"yolo_head.{i}",), (f"yolo_head.{i}",), 100.0) for i in range(3)
    )
    names = [(f"x.{i}", f"y.{i}", f"w.{i}", f"h.{i}", f"obj.{i}", f"cls.{i}") for i in range(3)]
    assert default_terms(True) == tuple(TermConfig("yolo_objectness", n, n, 1000.0) for n in names)


# overrides and warnings


def test_published_overrides(tmp_path: Path, caplog):
    overrides = [
        "weights=output/x/best_model", "pretrain_weights=https://host/a.tar", "max_iters=7", "use_gpu=false",
        "TrainReader.batch_size=4", "LearningRate.base_lr=1e-4", "TrainReader.dataset.dataset_dir=dataset/other",
        "TrainReader.batch_transforms.0.sizes=[320]", "YOLOv3Loss.batch_size=16",
        "finetune_exclude_pretrained_params=['yolo_output']",
    ]  # fmt: skip
    with caplog.at_level(logging.WARNING, logger="slim_distill.config"):
        cfg = load(tmp_path, *overrides)
    assert (cfg.weights, cfg.train.pretrain_weights) == ("output/x/best_model", "https://host/a.tar")
    assert (cfg.train.max_iters, cfg.device, cfg.schedule.base_lr) == (7, "cpu", 1e-4)
    assert (cfg.data.train.batch_size, cfg.data.train.dataset.root) == (4, "dataset/other")
    assert cfg.data.train.batch_transforms[0].args["sizes"] == [320]
    assert cfg.train.pretrain_exclude == ("yolo_output",)
    assert [record.getMessage() for record in caplog.records] == [
        "YOLOv3Loss.batch_size=16 has no effect, as in PaddleDetection 0.4: batches have TrainReader.batch_size=4"
    ]


def test_warns_of_sections_without_effect(tmp_path: Path, caplog):
    with caplog.at_level(logging.WARNING, logger="slim_distill.config"):
        load(tmp_path, "DarkNet={depth: 53}")
    assert [r.getMessage() for r in caplog.records] == [
        "DarkNet: no part of this model is of this class; the section has no effect"
    ]


# refusals


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("max_iter=5", r"^max_iter: unknown key; did you mean 'max_iters'\?.*\(in override 'max_iter=5'\)$"),
        ("YOLOv3Los.batch_size=5", r"^YOLOv3Los: unknown key; did you mean 'YOLOv3Loss'\?"),
        ("YOLOv3Loss.bach_size=5", r"^YOLOv3Loss\.bach_size: unknown key; did you mean 'batch_size'\?"),
        ("TrainReader.batchsize=5", r"^TrainReader\.batchsize: unknown key; did you mean 'batch_size'\?"),
        ("TrainReader.dataset.anno=x", r"^TrainReader\.dataset\.anno: unknown key; did you mean 'anno_path'\?"),
        ("max_iters=many", r"^max_iters: must be a whole number, found the text 'many' \(in override"),
        ("LearningRate.base_lr=fast", r"^LearningRate\.base_lr: must be a number, found the text 'fast'"),
        ("TrainReader.shuffle=1", r"^TrainReader\.shuffle: must be true or false, found 1"),
        ("TrainReader=5", r"^TrainReader: must be a mapping of keys, found 5"),
        ("YOLOv3Loss=5", r"^YOLOv3Loss: must be a mapping of keys, found 5"),
        ("architecture=SSD", r"^architecture: the text 'SSD' is not supported; supported: YOLOv3"),
        ("metric=WIDERFACE", r"^metric: the text 'WIDERFACE' is not supported; supported: VOC, COCO"),
        ("map_type=12point", r"^map_type: the text '12point' is not supported \(did you mean '11point'\?\)"),
        (
            "YOLOv3.backbone=ResNeXt",
            r"^YOLOv3\.backbone: the text 'ResNeXt' is not supported \(did you mean 'ResNet'\?\)",
        ),
        ("YOLOv3.backbone=null", r"^YOLOv3\.backbone: is null; supported: MobileNet, MobileNetV3, ResNet, DarkNet"),
        (
            "YOLOv3.backbone=ResNet",
            r"^ResNet\.norm_type: the text 'affine_channel', the default of PaddleDetection is not",
        ),
        ("YOLOv3.yolo_head=YOLOv4Head", r"^YOLOv3\.yolo_head: the text 'YOLOv4Head' is not supported"),
        (
            "MobileNet.with_extra_blocks=true",
            r"^MobileNet\.with_extra_blocks: true is not supported, only false: .* SSD",
        ),
        ("YOLOv3Head.drop_block=true", r"^YOLOv3Head\.drop_block: true is not supported, only false: DropBlock"),
        ("YOLOv3Head.spp=true", r"^YOLOv3Head\.spp: true is not supported"),
        ("YOLOv3Head.iou_aware=true", r"^YOLOv3Head\.iou_aware: true is not supported"),
        ("YOLOv3Head.num_classes=5", r"^YOLOv3Head\.num_classes: contradicts the top-level num_classes, 4"),
        (
            "YOLOv3Head.nms=MatrixNMS",
            r"^YOLOv3Head\.nms: the text 'MatrixNMS' is not supported \(did you mean 'MultiClassNMS",
        ),
        ("YOLOv3Head.nms={nms_eta: 0.5}", r"^YOLOv3Head\.nms\.nms_eta: 0\.5 is not supported, only 1"),
        ("YOLOv3Head.scale_x_y=1.05", r"^YOLOv3Loss\.scale_x_y: must equal YOLOv3Head\.scale_x_y, 1\.05"),
        ("YOLOv3Loss.iou_aware_loss=IouAwareLoss", r"^YOLOv3Loss\.iou_aware_loss: .* is not supported, only nothing"),
        ("YOLOv3Loss.iou_loss=GiouLoss", r"^YOLOv3Loss\.iou_loss: .*'GiouLoss'.* supported: IouLoss, DiouLossYolo"),
        (
            "YOLOv3Loss.use_fine_grained_loss=true",
            r"^YOLOv3Loss\.use_fine_grained_loss: contradicts the top-level .* false",
        ),
        ("YOLOv3.use_fine_grained_loss=true", r"^YOLOv3\.use_fine_grained_loss: contradicts the top-level"),
        (
            "OptimizerBuilder.optimizer.type=Adam",
            r"^OptimizerBuilder\.optimizer\.type: .*'Adam' is not supported; .*Momentum",
        ),
        ("OptimizerBuilder.optimizer.beta=1", r"^OptimizerBuilder\.optimizer\.beta: unknown key"),
        ("OptimizerBuilder.optimizer=null", r"^OptimizerBuilder\.optimizer: is null; write"),
        (
            "OptimizerBuilder.regularizer.type=L1",
            r"^OptimizerBuilder\.regularizer\.type: .*'L1' is not supported; .*L2",
        ),
        (
            "LearningRate.schedulers=[]",
            r"^LearningRate\.schedulers: must be a list of !PiecewiseDecay or !CosineDecay, then",
        ),
        (
            "LearningRate.schedulers=[!LinearWarmup {}]",
            r"^LearningRate\.schedulers: must be a list .*found .*LinearWarmup",
        ),
        (
            "LearningRate.schedulers=[!PolynomialDecay {}]",
            r"^LearningRate\.schedulers\[0\]: PolynomialDecay is not supported",
        ),
        ("LearningRate.schedulers=[5]", r"^LearningRate\.schedulers\[0\]: 5 is not supported"),
        (
            "LearningRate.schedulers=[!PiecewiseDecay {values: [1, 2], milestones: [5]}]",
            r"^LearningRate\.schedulers\[0\]\.values: .* is not supported, only nothing \(null\): write base_lr",
        ),
        (
            "LearningRate.schedulers=[!PiecewiseDecay {gamma: [0.1], milestones: [5, 9]}]",
            r"^LearningRate\.schedulers\[0\]\.gamma: must be one for each of the 2 milestones, found 1",
        ),
        ("TrainReader.cutmix_epoch=5", r"^TrainReader\.cutmix_epoch: 5 is not supported, only -1: CutMix"),
        (
            "TrainReader.inputs_def.num_max_boxes=90",
            r"^TrainReader\.inputs_def\.num_max_boxes: 90 is not supported, only 50",
        ),
        (
            "TrainReader.inputs_def.fields=[gt_mask]",
            r"^TrainReader\.inputs_def\.fields\[0\]: 'gt_mask' is not an input",
        ),
        (
            "TrainReader.inputs_def.image_shape=[1, 9, 9]",
            r"^TrainReader\.inputs_def\.image_shape: must be \[3, height, width\]",
        ),
        (
            "TrainReader.dataset.with_background=true",
            r"^TrainReader\.dataset\.with_background: true is not .* number 0",
        ),
        (
            "TrainReader.dataset=!WIDERFaceDataSet {}",
            r"^TrainReader\.dataset: !WIDERFaceDataSet is not supported; supported",
        ),
        ("TrainReader.dataset=null", r"^TrainReader\.dataset: is null; it must be one of !VOCDataSet"),
        (
            "TrainReader.dataset=!ImageFolder {}",
            r"with_background: true, the default of PaddleDetection, is not supported",
        ),
        (
            "TrainReader.sample_transforms=[!DecodeImag {}]",
            r"transforms\[0\]: !DecodeImag is not .*mean !DecodeImage\?",
        ),
        ("TrainReader.sample_transforms=[DecodeImage]", r"sample_transforms\[0\]: must be a node such as !DecodeImage"),
        ("TrainReader.sample_transforms=5", r"sample_transforms: must be a list of !Transform nodes, found 5"),
        ("train_feed=YoloTrainFeed", r"^train_feed: is not supported: feeds belong to PaddleDetection 0\.1"),
        ("_BASE_=[a.yml]", r"^_BASE_: is not supported: belongs to PaddleDetection 2"),
        ("use_xpu=true", r"^use_xpu: true is not supported, only false"),
        (
            "TrainReader.batch_size=0",
            r"^data\.train\.batch_size: must be at least 1, found 0 \(in the translation of .*\)$",
        ),
    ],
)
def test_refuses_by_name_and_place(tmp_path: Path, text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, text)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("max_iters: 100\n", "", r"^max_iters: is missing; it is required \(in .*foreign\.yml\)$"),
        (
            "YOLOv3: {backbone: MobileNet, yolo_head: YOLOv3Head}\n",
            "",
            r"^YOLOv3\.backbone: is missing; it is required",
        ),
        ("_READER_: 'reader.yml'", "_READER_: 'other.yml'", r"^_READER_: there is no reader file .*other\.yml"),
        ("_READER_: 'reader.yml'", "_READER_: 5", r"^_READER_: must be the name of a reader file, found 5"),
        (
            "norm_decay: 0., conv_group_scale",
            "norm_deacy: 0., conv_group_scale",
            r"'norm_decay'\?.*\(in .*foreign\.yml\)$",
        ),
        ("    with_background: false\n", "", r"^TrainReader\.dataset\.with_background: true, the default of PaddleDet"),
        ("max_iters: 100", "max_iters: !!python/name:os.system", r"foreign\.yml:3:12: the tag .* is not allowed here"),
    ],
)
def test_refuses_wrong_files(tmp_path: Path, old: str, new: str, message: str):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, old=old, new=new)


def test_an_error_in_the_reader_file_names_it(tmp_path: Path):
    path = write_foreign(tmp_path, FOREIGN, READER.replace("worker_num: 4", "worker_nums: 4"))
    with pytest.raises(
        ConfigError, match=r"^TrainReader\.worker_nums: unknown key; .*'worker_num'.*\(in .*reader\.yml\)$"
    ):
        load_config(path)


def test_a_missing_reader_or_target_transform_is_named(tmp_path: Path):
    path = write_foreign(tmp_path, FOREIGN.partition("_READER_")[0])
    with pytest.raises(
        ConfigError, match=r"^TrainReader: is missing; write it, or include a file that has it by _READER_"
    ):
        load_config(path)
    with pytest.raises(
        ConfigError, match=r"^TrainReader\.batch_transforms: has no !Gt2YoloTarget, which use_fine_grained"
    ):
        load(tmp_path, "use_fine_grained_loss=true", "TrainReader.batch_transforms=[]")


# tables


def test_no_key_stands_in_two_tables():
    for name in USED.keys() | FIXED.keys() | HARMLESS.keys():
        tables = [table.get(name, {}).keys() for table in (USED, FIXED, HARMLESS)]
        assert sum(len(keys) for keys in tables) == len(set().union(*tables)), name


def test_every_harmless_key_has_a_reason_and_is_accepted(tmp_path: Path):
    names = {"Reader": "TrainReader", "MobileNet": "MobileNet", "YOLOv3Head": "YOLOv3Head", "YOLOv3Loss": "YOLOv3Loss"}
    expected = load(tmp_path)
    for section, keys in HARMLESS.items():
        for key, reason in keys.items():
            assert len(reason) > 20
            if section == "":
                assert load(tmp_path, f"{key}=7") == expected
            elif section in names:
                assert load(tmp_path, f"{names[section]}.{key}=7") == expected


def test_published_files_say_the_same_in_both_pairs():
    for student, teacher in [("yolov3_mobilenet_v1_voc", "yolov3_r34_voc"), ("yolov3_mobilenet_v1", "yolov3_r34")]:
        one, other = load_config(CONFIGS / f"{student}.yml"), load_config(CONFIGS / f"{teacher}.yml")
        assert one.data == other.data
        assert one.schedule == other.schedule
        assert one.model.head == other.model.head
