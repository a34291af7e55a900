"""Damaged bytes of every format: an array of the right size or WeightsError, never anything else.

The long search is tests/fuzz; this is the short one of the ordinary suite.
"""

import pickle
import tarfile

import numpy as np
import safetensors.numpy
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights import read_weights
from tests.common.weight_files import gzipped, pir_program, program, record, tar_file, tar_member, zip_file
from tests.fuzz.make_corpus import CORPUS, records

W = np.arange(6, dtype=np.float32).reshape(2, 3)
ARRAYS = {"w": W, "b": np.array([1.0, 2.0])}
TAR = [
    tar_member("net", kind=tarfile.DIRTYPE),
    tar_member("net/" + "w" * 120, record(W)),
    tar_member("net/b", record(W)),
]
SEEDS = {
    "record": {"net/w": record(W)},
    "combined": {"net/m.pdiparams": record(W) * 2, "net/m.pdmodel": program({"a": (2, 3), "b": (-1, 3)})},
    "pir": {"net/m.pdiparams": record(W) * 2, "net/m.json": pir_program({"a": (2, 3), "b": (2, 3)})},
    "pickle2": {"net/a.pdparams": pickle.dumps(ARRAYS, 2)},
    "pickle4": {"net/a.pdparams": pickle.dumps({"n": ARRAYS, "t": ("x", W)}, 4)},
    "pickle5": {"net/a.pdparams": pickle.dumps(ARRAYS, 5)},
    "safetensors": {"net/a.safetensors": safetensors.numpy.save(ARRAYS)},
    "tar": {"a.tar": tar_file(TAR)},
    "pax": {"a.tar": tar_file(TAR, tarfile.PAX_FORMAT)},
    "gzip": {"a.tar": gzipped(tar_file(TAR))},
    "zip": {"a.tar": zip_file([("net/w", record(W)), ("net/b", record(W))])},
}


@st.composite
def damaged(draw):
    """A seed with a few bytes changed, removed or put in, mostly near the start, where headers are."""
    seed = draw(st.sampled_from(sorted(SEEDS)))
    files = dict(SEEDS[seed])
    name = draw(st.sampled_from(sorted(files)))
    data = bytearray(files[name])
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(min(len(data), draw(st.sampled_from([64, 600, 1 << 20]))) - 1, 0)))
        new = draw(st.one_of(st.binary(max_size=4), st.sampled_from([b"\xff" * 8, b"\x00" * 8, b"\x80", b"R", b"."])))
        data[at : at + draw(st.sampled_from([len(new), 0, 1, 1 << 20]))] = new
    files[name] = bytes(data)
    return files


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(files=damaged())
def test_damage_is_refused_or_read_but_never_crashes(tmp_path_factory, files):
    folder = tmp_path_factory.mktemp("damaged")
    for name, data in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(data)
    arrays, told = {}, ""
    try:
        arrays = read_weights(folder / next(iter(files)).split("/")[0], cache_dir=folder / "cache")
    except WeightsError as error:
        told = str(error)
    assert bool(arrays) != bool(told)
    assert len(told) < 2000
    most = 8 * sum(map(len, files.values())) + (1 << 16)
    assert sum(array.nbytes for array in arrays.values()) <= most
    assert all(isinstance(name, str) and array.dtype.kind in "biufc" for name, array in arrays.items())


def test_the_undamaged_seeds_read(tmp_path):
    for seed, files in SEEDS.items():
        folder = tmp_path / seed
        for name, data in files.items():
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            (folder / name).write_bytes(data)
        arrays = read_weights(folder / next(iter(files)).split("/")[0], cache_dir=tmp_path / "cache")
        assert any(np.array_equal(array, W) for array in arrays.values()), seed


def test_the_fuzz_corpus_is_what_its_script_writes_and_is_read_or_refused(tmp_path):
    files = {path.name: path.read_bytes() for path in CORPUS.iterdir()}
    assert files == records()
    refused = set()
    for name, data in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "w").write_bytes(data)
        try:
            read_weights(tmp_path / name)
        except WeightsError:
            refused.add(name)
    assert refused == {"truncated", "float32_negative_dim", "float32_packed_dims"}
