"""slim-distill convert-weights: any readable format to any writable one."""

import numpy as np
import pytest

from slim_distill.cli import main as cli_main
from slim_distill.common.weights import read_weights, write_weights
from tests.common.weight_files import record

ARRAYS = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([7])}


@pytest.fixture
def main():
    return lambda arguments: cli_main(["convert-weights", *arguments])


def same(found, expected):
    return found.keys() == expected.keys() and all(np.array_equal(found[name], expected[name]) for name in found)


@pytest.mark.parametrize("source", ["a.pdparams", "a.safetensors", "a"])
@pytest.mark.parametrize("target", ["b.pdparams", "b.safetensors", "b"])
def test_every_pair_of_formats_keeps_the_values(main, tmp_path, capsys, source, target):
    write_weights(tmp_path / source, ARRAYS)
    assert main([str(tmp_path / source), str(tmp_path / target)]) == 0
    assert same(read_weights(tmp_path / target), ARRAYS)
    assert "2 arrays" in capsys.readouterr().out


def test_a_format_and_names_can_be_given(main, tmp_path):
    (tmp_path / "all").write_bytes(record(ARRAYS["w"]) + record(ARRAYS["n"]))
    (tmp_path / "list").write_text("w\nn\n")
    arguments = [
        str(tmp_path / "all"),
        str(tmp_path / "out.x"),
        "--format",
        "folder",
        "--names",
        str(tmp_path / "list"),
    ]
    assert main(arguments) == 0
    assert same(read_weights(tmp_path / "out.x"), ARRAYS)


def test_a_file_that_is_not_there_is_an_error_without_a_traceback(main, tmp_path, capsys):
    assert main([str(tmp_path / "no"), str(tmp_path / "out")]) == 2
    assert "convert-weights: error: " in capsys.readouterr().err
    assert main([str(tmp_path / "no"), str(tmp_path / "out"), "--names", str(tmp_path / "none")]) == 2
    assert not (tmp_path / "out").exists()


def test_golden_checkpoints_convert_exactly(main, golden, tmp_path):
    values = dict(np.load(golden / "legacy_ckpt" / "values.npz"))
    source = golden / "legacy_ckpt" / "dir_persistables" / "tiny_net"
    assert main([str(source), str(tmp_path / "a.pdparams")]) == 0
    assert main([str(tmp_path / "a.pdparams"), str(tmp_path / "a.safetensors")]) == 0
    assert main([str(tmp_path / "a.safetensors"), str(tmp_path / "again")]) == 0
    assert same(read_weights(tmp_path / "a.pdparams"), values)
    for path in source.iterdir():
        assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()
