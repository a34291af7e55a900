"""Bad weights: files, folders, archives, addresses; read by every command that reads any."""

import io
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save, save_file

from tests.common.weight_files import program, raw_record, record, tar_file, tar_member, tar_of
from tests.reliability.world import Case, Prepare, case, locked

__all__ = ["CASES"]

W = np.arange(6, dtype=np.float32).reshape(2, 3)
EVAL = "eval -c run.yml -o weights="
EXPORT = "export -c run.yml --output_dir out/x -o weights="
INFER = "infer -c run.yml --infer_img data/JPEGImages --output_dir out/x -o weights="
DISTILL = "distill -c run.yml -t run.yml --teacher_pretrained "
TRAIN = "train -c run.yml -o train.pretrain_weights="


class _Code:
    """Pickles as a call of os.system."""

    def __reduce__(self):
        return os.system, ("touch was_here",)


def converted(content: bytes | str, *say: str, name: str = "in.pdparams") -> Case:
    """A file of this content to be converted."""
    return case(f"convert-weights {name} out/x.safetensors", *say, files={name: content})


def changed(change: Callable[[dict], object]) -> Prepare:
    """The tiny model's weights with a change."""

    def prepare() -> None:
        arrays = load_file("model.safetensors")
        change(arrays)
        save_file(arrays, "bad.safetensors")

    return prepare


def zipped(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return stream.getvalue()


def cut(arrays: dict) -> None:
    arrays["yolo_output.0.conv.bias"] = arrays["yolo_output.0.conv.bias"][:-1]


def emptied(arrays: dict) -> None:
    for name in list(arrays)[1:]:
        del arrays[name]


FILES = {
    "weights_none": case("eval -c run.yml", "give -o weights="),
    "weights_none_to_infer": case("infer -c run.yml --infer_img data", "give -o weights="),
    "weights_none_to_export": case("export -c run.yml", "give -o weights="),
    "weights_missing": case(EVAL + "gone", "gone: no such file or folder"),
    "weights_name_almost_right": case(EXPORT + "modle.safetensors", "in its folder are model.safetensors"),
    "weights_name_too_long": case(EVAL + "x" * 5000, "File name too long|no such file"),
    "weights_empty": case(EVAL + "bad", "the file is empty", files={"bad": b""}),
    "weights_empty_teacher": case(DISTILL + "bad", "the file is empty", files={"bad": b""}),
    "weights_truncated": case(
        EXPORT + "model.safetensors",
        "truncated",
        prepare=lambda: Path("model.safetensors").write_bytes(Path("model.safetensors").read_bytes()[:-100]),
    ),
    "weights_unreadable": case(
        EVAL + "model.safetensors", "Permission denied", prepare=lambda: Path("model.safetensors").chmod(0)
    ),
    "weights_folder_unreadable": case("convert-weights locked out/x", "Permission denied|no such", prepare=locked(0)),
    "weights_dangling": case(INFER + "link", "no such file", prepare=lambda: os.symlink("gone", "link")),
    "weights_link_to_itself": case("convert-weights link out/x", "link", prepare=lambda: os.symlink("link", "link")),
    "weights_pipe": case("convert-weights pipe out/x", "not a regular file", prepare=lambda: os.mkfifo("pipe")),
    "weights_device": case("convert-weights /dev/zero out/x", "not a regular file"),
    "weights_folder_empty": case(TRAIN + "void", "no weights in this folder", prepare=lambda: Path("void").mkdir()),
    "weights_folder_of_images": case(TRAIN + "data", "data"),
    "weights_folder_of_two": case(
        "convert-weights two out/x", "give the path of one", files={"two/a.pdparams": b"a", "two/b.pdparams": b"b"}
    ),
    "weights_text": converted("hello, these are no weights", "not a weights file: bytes 68 65"),
    "weights_web_page": converted("<!DOCTYPE html><html>Sign in</html>", "a web page"),
    "weights_lfs_pointer": converted("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "weights_json": converted('{"a": 1}', "JSON, perhaps a program"),
    "weights_image": converted(b"\x89PNG\r\n\x1a\n" + bytes(100), "not a weights file"),
    "weights_bzip2": converted(b"BZh91AY" + bytes(50), "compressed with bzip2"),
    "weights_pickle_with_code": converted(pickle.dumps({"w": _Code()}), "system"),
    "weights_pickle_with_code_teacher": case(
        DISTILL + "bad.pdparams", "system", files={"bad.pdparams": pickle.dumps(_Code(), 2)}
    ),
    "weights_pickle_of_a_list": converted(pickle.dumps([W]), "in.pdparams"),
    "weights_pickle_of_text": converted(pickle.dumps({"w": "text"}), "in.pdparams: holds no arrays"),
    "weights_pickle_of_objects": converted(pickle.dumps({"w": np.array([{}], dtype=object)}), "in.pdparams"),
    "weights_pickle_cut": converted(pickle.dumps({"w": W})[:-20], "in.pdparams"),
    "weights_pickle_empty": converted(pickle.dumps({}), "no arrays|no weights|empty"),
    "weights_record_cut": converted(record(W)[:-3], "names|truncated", name="in.pdiparams"),
    "weights_records_without_names": converted(record(W) * 2, "tensor records without names", name="in.pdiparams"),
    "weights_records_absurd": case(
        "convert-weights net out/x", "4398046511104 bytes", files={"net/w": raw_record((1 << 40,))}
    ),
    "weights_record_name_leaves": case(
        "convert-weights net out/x", "has '\\.\\.'", files={"net/__model__": program({"../../up": (2,)})}
    ),
    "weights_safetensors_header": converted(b"\xff" * 8 + b"{}", "a header of", name="in.safetensors"),
    "weights_safetensors_not_json": converted((2).to_bytes(8, "little") + b"{]", "not JSON", name="in.safetensors"),
    "weights_safetensors_no_tensors": converted(save({}), "no arrays", name="in.safetensors"),
    "weights_other_shape": case(
        EVAL + "bad.safetensors", r"yolo_output\.0\.conv\.bias", "wanted", prepare=changed(cut)
    ),
    "weights_of_another_network": case(
        EVAL + "model.safetensors model.backbone.type=resnet model.backbone.depth=18", "variables fit"
    ),
    "weights_mostly_missing": case(EXPORT + "bad.safetensors", "1 of .* variables fit", prepare=changed(emptied)),
    "weights_of_nothing_that_fits": case(
        TRAIN + "bad.safetensors", "variables fit|fits", prepare=lambda: save_file({"w": W}, "bad.safetensors")
    ),
}

ARCHIVES = {
    "archive_leaves": case("convert-weights a.tar out/x", "has '..'", files={"a.tar": tar_of("../up")}),
    "archive_absolute": case(EVAL + "a.tar", "absolute", files={"a.tar": tar_of("/tmp/was_here")}),
    "archive_link": case(
        "convert-weights a.tar out/x", "a.tar", files={"a.tar": tar_file([tar_member("net/w", kind=b"2")])}
    ),
    "archive_cut": case("convert-weights a.zip out/x", "a.zip", files={"a.zip": zipped(("w", record(W)))[:-30]}),
    "archive_bomb": case(DISTILL + "a.zip", "bomb|declares", files={"a.zip": zipped(("w", bytes(64 << 20)))}),
    "archive_empty": case("convert-weights a.zip out/x", "no weights in this folder", files={"a.zip": zipped()}),
    "archive_of_text": case("convert-weights a.zip out/x", "read.me", files={"a.zip": zipped(("read.me", b"hello"))}),
    "archive_cache_unwritable": case(
        "convert-weights a.zip out/x --cache-dir data",
        "cannot",
        files={"a.zip": zipped(("w", record(W)))},
        prepare=lambda: Path("data").chmod(0o555),
    ),
    "archive_cache_of_environment": case(
        "convert-weights a.zip out/x",
        "cannot lock cache/unpacked",
        files={"a.zip": zipped(("w", record(W)))},
        prepare=lambda: Path("cache").chmod(0o555),
    ),
    "archive_cache_a_file": case(
        "convert-weights a.zip out/x --cache-dir run.yml", "run.yml", files={"a.zip": zipped(("w", record(W)))}
    ),
}

ADDRESSES = {
    "url_of_no_server": case(EVAL + "http://127.0.0.1:9/w", "127.0.0.1:9/w: no connection"),
    "url_of_no_host": case(DISTILL + "http:///w", "cannot fetch this"),
    "url_of_unknown_host": case("convert-weights http://nowhere.invalid/w out/x", "no connection"),
    "url_scheme": case(EXPORT + "ftp://127.0.0.1/w", "known are http://"),
    "url_port": case("convert-weights http://127.0.0.1:99999/w out/x", "99999/w: not an address: Port out of range"),
    "url_port_text": case("convert-weights http://127.0.0.1:port/w out/x", "not an address: Port could not be cast"),
    "url_bracket": case("convert-weights http://[::1/w out/x", "not an address: Invalid IPv6 URL"),
    "url_unicode": case(
        "convert-weights http://127.0.0.1:9/\u00e4\u00f6 out/x", "cannot have '\u00e4'; write it as %C3%A4"
    ),
    "url_unicode_host": case("convert-weights http://\u2603\u2603.invalid/w out/x", "cannot have '\u2603'"),
    "url_blank": Case(
        ("convert-weights", "http://127.0.0.1:9/a b\nc", "out/x"), {}, None, ("cannot have ' '; write it as %20",)
    ),
    "url_host_too_long": case(f"convert-weights http://{'a' * 300}.invalid/w out/x", "not an address"),
    "url_fragment": case("convert-weights http://127.0.0.1:9/w#md5=0 out/x", "unknown fragment"),
    "url_checksum": case("convert-weights http://127.0.0.1:9/w#sha256=12 out/x", "64 hexadecimal digits"),
    "url_of_a_file_missing": case(INFER + "file:///gone/w", "/gone/w"),
    "url_of_a_file_elsewhere": case("convert-weights file://host/w out/x", "another machine"),
    "url_of_a_file_nul": case("convert-weights file:///a%00b out/x", "no such file"),
    "url_404": case("convert-weights {server}/missing out/x", "answered 404"),
    "url_500": case("convert-weights {server}/broken out/x", "answered 500", "4 attempts"),
    "url_redirects_for_ever": case("distill -c run.yml -t run.yml --teacher_pretrained {server}/loop", "redirect"),
    "url_redirects_to_a_file": case("convert-weights {server}/to_file out/x", "not allowed"),
    "url_of_a_page": case("eval -c run.yml -o weights={server}/page", "web page"),
    "url_empty": case("convert-weights {server}/empty out/x", "empty"),
    "url_cut_off": case("convert-weights {server}/short out/x", "ended after"),
    "url_checksum_wrong": case("convert-weights {server}/text#sha256=" + "0" * 64 + " out/x", "SHA-256|checksum"),
    "checksum_wrong": case("convert-weights model.safetensors out/x --sha256 " + "0" * 64, "SHA-256"),
    "checksum_of_a_folder": case("convert-weights data out/x --sha256 " + "0" * 64, "not a file"),
    "checksum_no_digits": case("convert-weights model.safetensors out/x --sha256 xyz", "xyz"),
}

TARGETS = {
    "target_format": case("convert-weights model.safetensors out/x.onnx", "'onnx' is not known"),
    "target_below_a_file": case("convert-weights model.safetensors run.yml/x.pdparams", "run.yml"),
    "target_a_folder": case("convert-weights model.safetensors data --format pdparams", "data"),
    "target_unwritable": case(
        "convert-weights model.safetensors locked/x.pdparams", "Permission denied", prepare=locked()
    ),
    "target_folder_of_others": case("convert-weights model.safetensors data", "data: the folder holds"),
    "target_here": case("convert-weights model.safetensors .", "the folder holds", "new folder"),
    "target_a_file_as_folder": case(
        "convert-weights model.safetensors run.yml --format folder", "run.yml: a folder would be written here"
    ),
    "target_a_device": case(
        "convert-weights model.safetensors null --format pdparams",
        "not a regular file",
        prepare=lambda: os.mkfifo("null"),
    ),
    "target_name_too_long": case(f"convert-weights model.safetensors out/{'x' * 300}.pdparams", "File name too long"),
    "names_missing": case("convert-weights model.safetensors out/x --names gone", "--names: gone"),
    "names_not_text": case(
        "convert-weights model.safetensors out/x --names n", "--names: n", files={"n": b"\xff\xfe\xfd"}
    ),
    "names_not_wanted": case("convert-weights model.safetensors out/x --names n", "has its own", files={"n": "a\n"}),
}

CASES = {**FILES, **ARCHIVES, **ADDRESSES, **TARGETS}
