"""Every format reads to the exact values, and what we write Paddle and we read back."""

import io
import json
import pickle
import struct
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import safetensors.numpy

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights import read_weights, write_weights
from slim_distill.common.weights.legacy import DTYPES
from tests.common.weight_files import (
    gzipped,
    pir_program,
    program,
    raw_record,
    record,
    safetensors_file,
    tar_file,
    tar_member,
    zip_file,
)

W = np.arange(24, dtype=np.float32).reshape(2, 3, 4) - 7
B = np.array([1.5, -2.25, 3], np.float32)
COUNT = np.array([12345678901], np.int64)
ARRAYS = {"conv.w": W, "conv.b": B, "@LR_DECAY_COUNTER@": COUNT}


def assert_same(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == np.asarray(array).dtype, name
        assert found[name].shape == np.shape(array), name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(
    "source",
    [
        "dir_persistables/tiny_net",
        "dir_params/tiny_net",
        "dir_combined/tiny_net/all_vars",
        "dir_combined/tiny_net",
        "tiny_net.tar",
        "tiny_net.tar.gz",
        "tiny_net_pdparams.tar",
        "trio/model",
        "trio/model.pdparams",
        "trio/model.pdopt",
        "infer_separate",
        "infer_combined",
        "infer_combined/__params__",
    ],
)
def test_golden_checkpoints_read_to_the_exact_values(golden, tmp_path, source):
    values = dict(np.load(golden / "legacy_ckpt" / "values.npz"))
    rows = (golden / "legacy_ckpt" / "values.tsv").read_text().splitlines()[1:]
    parameters = {row.split("\t")[0] for row in rows if row.split("\t")[3] == "1"}
    names = set(values) if "persistables" in source or "dir_combined" in source else parameters
    if source.endswith(".pdopt"):
        names = set(values) - parameters
    found = read_weights(golden / "legacy_ckpt" / source, cache_dir=tmp_path)
    assert_same(found, {name: values[name] for name in names})


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickles_of_every_protocol_layout_and_byte_order_read(tmp_path, protocol):
    arrays = {
        "c": W,
        "fortran": np.asfortranarray(W),
        "transposed": W.transpose(1, 0, 2),
        "mask": W > 3,
        "empty": np.zeros((0, 3), np.float32),
        "zero_d": np.array(2.5),
        "half": B.astype(np.float16),
    }
    kept = {**arrays, "big_endian": W.astype(">f4"), "scalar": np.float32(3)}
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({**kept, "epoch": 3, "note": [1, "x", None]}, protocol))
    expected = {**arrays, "big_endian": W, "scalar": np.array(3, np.float32)}
    found = read_weights(tmp_path / "a.pdparams")
    assert_same(found, expected)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in found.values())


def test_layouts_of_paddle_versions_read(tmp_path):
    path = tmp_path / "a.pdparams"
    table = {"StructuredToParameterName@@": {"fc.weight": "linear_0.w_0"}, "fc.weight": W}
    path.write_bytes(pickle.dumps(table, 2))
    assert_same(read_weights(path), {"fc.weight": W})
    path.write_bytes(pickle.dumps({"model": {"fc.weight": ("linear_0.w_0", W)}, "last_epoch": 4}, 4))
    assert_same(read_weights(path), {"model/fc.weight": W})
    path.write_bytes(pickle.dumps(("linear_0.w_0", W), 4))
    assert_same(read_weights(path), {"linear_0.w_0": W})


def test_tensors_that_were_split_for_size_are_joined(tmp_path):
    flat = W.reshape(-1)
    split = {
        "w@@.0": flat[:10],
        "w@@.1": flat[10:],
        "b": B,
        "UnpackBigParamInfor@@": {"w": {"OriginShape": W.shape, "slices": ["w@@.0", "w@@.1"]}},
    }
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps(split, 2))
    assert_same(read_weights(tmp_path / "a.pdparams"), {"w": W, "b": B})


def test_pickles_written_under_python_2_read(tmp_path):
    # Python 2 wrote byte strings where Python 3 writes text and bytes: SHORT_BINSTRING "U" and BINSTRING "T".
    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    data = b"T" + struct.pack("<i", B.nbytes) + B.tobytes()
    dtype = (
        b"cnumpy\ndtype\n("
        + text(b"f4")
        + b"K\x00K\x01tR(K\x03"
        + text(b"<")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00t" + text(b"b") + b"tR"
    state = b"(K\x01(K\x03t" + dtype + b"\x89" + data + b"tb"
    (tmp_path / "a.pdparams").write_bytes(b"\x80\x02}" + text(b"bias") + array + state + b"s.")
    assert_same(read_weights(tmp_path / "a.pdparams"), {"bias": B})


def test_a_bare_paddle_tensor_is_read_as_data_and_never_evaluated(tmp_path):
    class Bare:
        def __reduce__(self):
            return eval, ("data", {"data": W})

    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"w": Bare()}, 4))
    assert_same(read_weights(tmp_path / "a.pdparams"), {"w": W})


@pytest.mark.parametrize("dtype", sorted({str(d) for code, d in DTYPES.items() if code != 22}))
def test_records_of_every_type_read(tmp_path, dtype):
    array = np.array([[0, 1, 1], [1, 0, 1]]).astype(dtype)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "w").write_bytes(record(array))
    assert_same(read_weights(tmp_path / "net"), {"w": array})


def test_bfloat16_is_widened_exactly_in_every_format(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x4049], np.uint16)
    expected = np.array([1.0, -2.0, 3.140625], np.float32)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "w").write_bytes(raw_record((3,), bits.tobytes(), code=22))
    assert_same(read_weights(tmp_path / "net"), {"w": expected})
    (tmp_path / "a.pdparams").write_bytes(pickle.dumps({"w": bits}, 4))
    assert_same(read_weights(tmp_path / "a.pdparams"), {"w": expected})
    header = {"w": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    (tmp_path / "a.safetensors").write_bytes(safetensors_file(header, bits.tobytes()))
    assert_same(read_weights(tmp_path / "a.safetensors"), {"w": expected})


def test_levels_of_detail_are_skipped(tmp_path):
    lod = struct.pack("<Q2Q", 16, 0, 2)
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "w").write_bytes(raw_record((2,), B[:2].tobytes(), levels=1, lod=lod))
    assert_same(read_weights(tmp_path / "net"), {"w": B[:2]})


def test_variables_in_sub_folders_are_named_by_their_path_and_hidden_files_are_left_out(tmp_path):
    (tmp_path / "net" / "scope").mkdir(parents=True)
    (tmp_path / "net" / "scope" / "w").write_bytes(record(W))
    (tmp_path / "net" / "b").write_bytes(record(B))
    (tmp_path / "net" / ".DS_Store").write_bytes(b"not a tensor")
    assert_same(read_weights(tmp_path / "net"), {"scope/w": W, "b": B})


@pytest.mark.parametrize("program_name", ["m.pdmodel", "m.json", "__model__"])
def test_combined_files_take_names_sorted_from_the_program_beside(tmp_path, program_name):
    make = pir_program if program_name.endswith(".json") else program
    (tmp_path / program_name).write_bytes(make({"z.w": W.shape, "a.b": B.shape}))
    (tmp_path / "m.pdiparams").write_bytes(record(B) + record(W))
    assert_same(read_weights(tmp_path / "m.pdiparams"), {"a.b": B, "z.w": W})
    assert_same(read_weights(tmp_path / "m"), {"a.b": B, "z.w": W})


def test_combined_files_take_names_from_a_list_or_an_argument(tmp_path):
    (tmp_path / "all").write_bytes(record(B) + record(W))
    assert_same(read_weights(tmp_path / "all", names=["b", "w"]), {"b": B, "w": W})
    (tmp_path / "order.txt").write_text("b\nw\n")
    assert_same(read_weights(tmp_path / "all"), {"b": B, "w": W})


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["b"], r"bytes are left after 1 tensors: too few names"),
        (["b", "w", "x"], r"2 tensors for 3 names; the first without one is 'x'"),
        (["b", "b"], r"'b' occurs twice"),
    ],
)
def test_names_that_do_not_fit_a_combined_file_are_refused(tmp_path, names, message):
    (tmp_path / "all").write_bytes(record(B) + record(W))
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "all", names=names)


def test_a_program_of_another_file_is_noticed_by_the_shapes(tmp_path):
    (tmp_path / "m.pdmodel").write_bytes(program({"a": (3, 3), "z": W.shape}))
    (tmp_path / "m.pdiparams").write_bytes(record(B) + record(W))
    with pytest.raises(WeightsError, match=r"shape \[3\], but 'a' is declared as \[3, 3\].*names from .*m\.pdmodel"):
        read_weights(tmp_path / "m.pdiparams")


def test_records_without_names_say_what_is_needed(tmp_path):
    (tmp_path / "m.pdiparams").write_bytes(record(B) + record(W))
    with pytest.raises(WeightsError, match=r"without names; needed is, beside it, the program \(m\.pdmodel"):
        read_weights(tmp_path / "m.pdiparams")


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("wrap", [bytes, gzipped])
def test_tars_of_every_dialect_read(tmp_path, format, wrap):
    # 80 characters fit the prefix field of ustar; longer names need the extensions of GNU and pax.
    long = "a" * 80 + "/" + "b" * (80 if format == tarfile.USTAR_FORMAT else 150)
    members = [
        tar_member("./net", kind=tarfile.DIRTYPE),
        tar_member("./net/w", record(W)),
        tar_member(f"net/{long}", record(B)),
    ]
    (tmp_path / "net.tar").write_bytes(wrap(tar_file(members, format)))
    assert_same(read_weights(tmp_path / "net.tar", cache_dir=tmp_path / "cache"), {"w": W, long: B})


def test_zips_read_and_content_decides_not_the_suffix(tmp_path):
    files = [("net/", b""), ("net/w", record(W)), ("net/ß", record(B)), ("__MACOSX/._w", b"junk")]
    (tmp_path / "net.tar").write_bytes(zip_file(files))
    assert_same(read_weights(tmp_path / "net.tar", cache_dir=tmp_path / "cache"), {"w": W, "ß": B})


def test_an_archive_is_unpacked_once_and_a_changed_one_again(tmp_path):
    archive, cache = tmp_path / "net.zip", tmp_path / "cache"
    archive.write_bytes(zip_file([("net/w", record(W))]))
    read_weights(archive, cache_dir=cache)
    (folder,) = [p for p in (cache / "unpacked").iterdir() if p.is_dir()]
    (folder / "net" / "w").write_bytes(record(B))
    assert_same(read_weights(archive, cache_dir=cache), {"w": B})
    archive.write_bytes(zip_file([("net/w", record(W)), ("net/b", record(B))]))
    assert_same(read_weights(archive, cache_dir=cache), {"w": W, "b": B})


def test_archives_and_folders_with_one_weights_file_stand_for_it(tmp_path):
    (tmp_path / "net.zip").write_bytes(zip_file([("net/m.pdparams", pickle.dumps({"w": W})), ("net/m.pdopt", b"?")]))
    assert_same(read_weights(tmp_path / "net.zip", cache_dir=tmp_path / "cache"), {"w": W})
    (tmp_path / "two").mkdir()
    for name in "ab":
        (tmp_path / "two" / f"{name}.pdparams").write_bytes(pickle.dumps({"w": W}))
    with pytest.raises(
        WeightsError, match=r"2 \.pdparams files; give the path of one of them: a\.pdparams, b\.pdparams"
    ):
        read_weights(tmp_path / "two")


def test_our_checkpoints_read(tmp_path):
    safetensors.numpy.save_file({"w": W}, tmp_path / "model.safetensors")
    safetensors.numpy.save_file({"w.velocity": W}, tmp_path / "state.safetensors")
    (tmp_path / "manifest.json").write_text(json.dumps({"step": 3}))
    assert_same(read_weights(tmp_path), {"w": W})


def test_a_pdparams_goes_before_a_folder_of_the_same_name(tmp_path):
    (tmp_path / "final").mkdir()
    (tmp_path / "final" / "w").write_bytes(record(B))
    assert_same(read_weights(tmp_path / "final"), {"w": B})
    (tmp_path / "final.pdparams").write_bytes(pickle.dumps({"w": W}))
    assert_same(read_weights(tmp_path / "final"), {"w": W})


@pytest.mark.parametrize("target", ["out.pdparams", "out.safetensors", "out"])
def test_what_is_written_reads_to_the_same_arrays(tmp_path, target):
    arrays = {
        **{f"scope/{name}": array for name, array in ARRAYS.items()},
        "scope/transposed": W.T,
        "scope/0d": np.array(1.0),
    }
    arrays |= {"scope/empty": np.zeros((0, 2), np.int32), "scope/flag": W > 0}
    write_weights(tmp_path / target, {"old": B})
    write_weights(tmp_path / target, arrays)
    assert_same(read_weights(tmp_path / target), arrays)
    assert {p.name for p in tmp_path.iterdir()} == {target, *({f"{target}.sha256"} if target == "out.pdparams" else ())}


def test_foreign_readers_read_what_we_write(tmp_path):
    write_weights(tmp_path / "a.safetensors", {"t": W.T, **ARRAYS})
    assert_same(safetensors.numpy.load_file(tmp_path / "a.safetensors"), {"t": W.T, **ARRAYS})
    write_weights(tmp_path / "a.pdparams", ARRAYS)
    assert_same(pickle.loads((tmp_path / "a.pdparams").read_bytes()), ARRAYS)


def test_paddle_reads_what_we_write_and_we_what_it_writes(tmp_path):
    write_weights(tmp_path / "a.pdparams", ARRAYS)
    write_weights(tmp_path / "folder", {"w": W})
    code = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, paddle
folder = sys.argv[1]
loaded = paddle.load(folder + "/a.pdparams", return_numpy=True)
np.savez(folder + "/loaded.npz", **loaded, record=paddle.load(folder + "/folder/w", return_numpy=True))
layer = paddle.nn.Linear(3, 2)
paddle.save(layer.state_dict(), folder + "/b.pdparams")
paddle.save({"nested": layer.weight, "epoch": 1}, folder + "/c.pdparams")
paddle.enable_static()
main, start = paddle.static.Program(), paddle.static.Program()
with paddle.static.program_guard(main, start):
    x = paddle.static.data("x", [None, 4])
    y = paddle.static.nn.fc(x, 3, weight_attr=paddle.ParamAttr(name="z_w"), bias_attr=paddle.ParamAttr(name="a_b"))
    exe = paddle.static.Executor()
    exe.run(start)
    paddle.static.save_inference_model(folder + "/m", [x], [y], exe)
    scope = paddle.static.global_scope()
    np.savez(folder + "/m.npz", **{n: np.array(scope.find_var(n).get_tensor()) for n in ("z_w", "a_b")})
np.savez(folder + "/linear.npz", weight=layer.weight.numpy(), bias=layer.bias.numpy())
"""
    run = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    loaded = dict(np.load(tmp_path / "loaded.npz"))
    assert_same(loaded, {**ARRAYS, "record": W})
    linear = dict(np.load(tmp_path / "linear.npz"))
    assert_same(read_weights(tmp_path / "b.pdparams"), linear)
    assert_same(read_weights(tmp_path / "c.pdparams"), {"nested": linear["weight"]})
    assert_same(read_weights(tmp_path / "m"), dict(np.load(tmp_path / "m.npz")))


@pytest.mark.parametrize(
    ("target", "arrays", "message"),
    [
        ("a.npz", {"w": W}, r"weights format 'npz' is not known"),
        ("a.pdparams", {}, r"no arrays to write"),
        ("a.pdparams", {"w": np.array(["x"])}, r"w: a \.pdparams cannot hold <U1"),
        ("a.pdparams", {"w": np.zeros(2, np.uint16)}, r"Paddle takes uint16 for bfloat16"),
        ("a.safetensors", {"w": np.array(["x"])}, r"safetensors cannot hold this"),
        ("a", {"w": np.zeros(2, np.uint16)}, r"w: a tensor record cannot hold uint16"),
        ("a", {"../w": W}, r"variable '\.\./w' cannot be a file: the name has '\.\.'"),
        ("a", {".w": W}, r"variable '\.w' would be a hidden file"),
        ("a", {"w": W, "w/b": B}, r"cannot write folder .*a: (Not a directory|File exists)"),
        ("a.safetensors", {"": W}, r"'' is not a variable name"),
    ],
)
def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing(tmp_path, target, arrays, message):
    with pytest.raises(WeightsError, match=message):
        write_weights(tmp_path / target, arrays)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html><html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (b'{"base_code":1}', "JSON, perhaps a program; give the .pdiparams file beside it"),
        (b"BZh91AY", "compressed with bzip2"),
        (b"\x93NUMPY", "bytes 93 4e 55 4d 50 59 first"),
    ],
)
def test_other_files_are_named_for_what_they_are(tmp_path, content, message):
    (tmp_path / "a.bin").write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_weights(tmp_path / "a.bin")


def test_a_missing_path_names_what_is_there(tmp_path):
    (tmp_path / "model_final.pdparams").write_bytes(pickle.dumps({"w": W}))
    with pytest.raises(WeightsError, match=r"no such file or folder; in its folder are model_final\.pdparams"):
        read_weights(tmp_path / "model_finale.pdparams")
    with pytest.raises(WeightsError, match=r"its folder .*nowhere is not there either"):
        read_weights(tmp_path / "nowhere" / "x")


def test_a_checksum_is_checked_when_given_or_beside(tmp_path):
    path = tmp_path / "a.pdparams"
    path.write_bytes(pickle.dumps({"w": W}))
    with pytest.raises(WeightsError, match=r"its SHA-256 is [0-9a-f]{64}, must be 0{64}"):
        read_weights(path, sha256="0" * 64)
    (tmp_path / "a.pdparams.sha256").write_text("1" * 64 + "  a.pdparams\n")
    with pytest.raises(WeightsError, match=r"must be 1{64}"):
        read_weights(path)
    with pytest.raises(WeightsError, match=r"a checksum is given, but this is not a file"):
        read_weights(tmp_path, sha256="0" * 64)


def test_reading_does_not_load_paddle():
    code = "import sys, slim_distill.common.weights; assert not {'paddle', 'pickle5'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_file_that_shrinks_while_it_is_read_is_refused(tmp_path):
    from slim_distill.common.weights._cursor import Cursor
    from slim_distill.common.weights.legacy import read_record

    data = record(W)
    with pytest.raises(WeightsError, match="the file shrank while the tensor data was read"):
        read_record(Cursor(io.BytesIO(data[:-4]), len(data), "x"))
