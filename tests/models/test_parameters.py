"""Every parameter has the name, shape and training attributes of the published network, none missing, none extra."""

import csv

import pytest

from slim_distill.models import build_model
from tests.models.support import build, detector

PUBLISHED = {
    "yolov3_mobilenet_v1": detector("mobilenet_v1", 80),
    "yolov3_mobilenet_v1_voc": detector("mobilenet_v1", 20),
    "yolov3_r34": detector("resnet", 80),
    "yolov3_r34_voc": detector("resnet", 20),
    "yolov3_darknet": detector("darknet", 80),
    "yolov3_darknet_voc": detector("darknet", 20),
    "yolov3_mobilenet_v3": detector("mobilenet_v3", 80),
}


def read_table(path):
    with open(path, newline="") as file:
        return {row["name"]: row for row in csv.DictReader(file, delimiter="\t")}


def attributes(value):
    decay = value.regularizer
    return {
        "shape": "x".join(map(str, value.shape)),
        "trainable": str(int(value.trainable)),
        "learning_rate": str(float(value.optimize_attr["learning_rate"])),
        "l2_decay": "-" if decay is None else str(float(decay._coeff)),
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_those_of(static_mode, golden, name):
    published = read_table(golden / "names" / f"params.{name}.tsv")
    ours = {n: attributes(v) for n, v in build(build_model(PUBLISHED[name], "train")).parameters.items()}
    assert ours == {n: {key: row[key] for key in attributes_of(row)} for n, row in published.items()}


def attributes_of(_row):
    return ("shape", "trainable", "learning_rate", "l2_decay")


def test_resnet50_vd_has_the_parameters_of_the_published_network_without_deformable_convolutions(static_mode, golden):
    published = read_table(golden / "names" / "params.dcn_yolov3_r50vd_dcn.tsv")
    published = {n: r["shape"] for n, r in published.items() if "conv_offset" not in n}
    built = build(build_model(detector("resnet", 80, depth=50, variant="d"), "train"))
    assert {n: "x".join(map(str, v.shape)) for n, v in built.parameters.items()} == published


@pytest.mark.parametrize("mode", ["eval", "infer"])
def test_detecting_networks_have_the_parameters_of_the_training_one(static_mode, mode):
    cfg = detector("mobilenet_v3", 4, model_name="small")
    detecting = set(build(build_model(cfg, mode)).parameters)
    import paddle
    from paddle import static

    with static.program_guard(static.Program(), static.Program()), paddle.utils.unique_name.guard():
        training = set(build(build_model(cfg, "train")).parameters)
    assert detecting == training


def test_prefixes_stand_before_every_parameter(static_mode):
    from slim_distill.config.schema import BackboneConfig, HeadConfig, ModelConfig

    cfg = ModelConfig(
        3, BackboneConfig("resnet", depth=18, prefix="a_", scale=0.125), HeadConfig(prefix="b.", scale=0.125)
    )
    names = set(build(build_model(cfg, "train")).parameters)
    assert {n[:2] for n in names} == {"a_", "b."}
    assert {"a_bn_conv1_scale", "b.yolo_output.0.conv.bias"} <= names


def test_initial_values_are_the_published_ones(static_mode):
    import numpy as np
    from paddle import static

    build(build_model(detector("mobilenet_v1", 3, scale=0.5), "eval")).initialise()
    scope = static.global_scope()

    def value(name):
        return np.array(scope.find_var(name).get_tensor())

    uniform = value("conv6_sep_weights")  # MSRA: uniform within sqrt(6 / fan_in)
    assert np.abs(uniform).max() <= np.sqrt(6 / 512)
    assert uniform.std() == pytest.approx(np.sqrt(2 / 512), rel=0.01)
    normal = value("yolo_block.0.0.1.conv.weights")  # normal with variance 2 / (k k C)
    assert normal.std() == pytest.approx(np.sqrt(2 / (9 * 256)), rel=0.01)
    assert np.abs(normal).max() > 4 * normal.std()
    assert np.all(value("conv1_bn_scale") == 1)
    assert np.all(value("conv1_bn_variance") == 1)
    assert np.all(value("conv1_bn_mean") == 0)
    assert np.all(value("yolo_output.0.conv.bias") == 0)


def test_depthwise_kernels_of_mobilenet_v3_start_with_the_variance_of_all_channels(static_mode):
    import numpy as np
    from paddle import static

    build(build_model(detector("mobilenet_v3", 3, scale=0.5), "eval")).initialise()
    kernel = np.array(static.global_scope().find_var("conv16_depthwise_weights").get_tensor())
    assert kernel.std() == pytest.approx(np.sqrt(2 / (25 * 480)), rel=0.02)
