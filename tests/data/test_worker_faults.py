"""Worker processes that die are replaced with the same batches, and never outlive the run."""

import errno
import os
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from slim_distill.common.errors import DataError
from slim_distill.data import Loader, _workers, load_voc
from slim_distill.data.transforms import DecodeImage, PadBox, SampleTransform
from tests.data.test_loader import Report, alive, all_end, equal


class DieOnce(SampleTransform):
    """Kills its process at one file, as often as the file of marks allows."""

    def __init__(self, part, marks, times, number=signal.SIGKILL):
        self.part, self.marks, self.times, self.number = part, str(marks), times, int(number)

    def __call__(self, sample, rng):
        done = os.path.getsize(self.marks)
        if self.part in sample["im_file"] and done < self.times:
            with open(self.marks, "ab") as file:
                file.write(b"x")
            os.kill(os.getpid(), self.number)
        sample["image"] = sample["image"] + rng.integers(0, 50)
        return sample


class Sleep(SampleTransform):
    """Never comes back, and says where it is."""

    def __call__(self, sample, rng):
        with open(sample["im_file"] + ".pid", "w") as file:
            file.write(str(os.getpid()))
        time.sleep(600)
        return sample


def loader(root, marks, times, workers=2, number=signal.SIGKILL):
    steps = [DecodeImage(), DieOnce("im3", marks, times, number), PadBox(4)]
    return Loader(load_voc(root, "list.txt"), steps, batch_size=2, shuffle=True, seed=3, workers=workers)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_killed_worker_is_replaced_and_the_batches_are_the_same_bit_for_bit(voc, tmp_path, caplog, number):
    marks, root = tmp_path / "marks", voc(6)
    marks.write_bytes(b"xx")
    expected = [b for _, b in zip(range(8), loader(root, marks, 2, 0).batches(), strict=False)]
    marks.write_bytes(b"")
    found = [b for _, b in zip(range(8), loader(root, marks, 2, 2, number).batches(), strict=False)]
    assert marks.stat().st_size == 2
    assert all(equal(a, b) for a, b in zip(expected, found, strict=True))
    lines = [r.getMessage() for r in caplog.records if "died with signal" in r.getMessage()]
    assert len(lines) == 2
    assert all(f"signal {number.name} while it prepared" in line and "im3.png (batch " in line for line in lines)
    assert "Another one builds the same batch" in lines[0]


def test_several_deaths_over_one_sample_stop_and_name_it(voc, tmp_path, caplog):
    (tmp_path / "marks").write_bytes(b"")
    with pytest.raises(DataError, match=r"im3\.png \(batch \d\); 3 have died over this; .*memory runs out: lower"):
        list(zip(range(8), loader(voc(6), tmp_path / "marks", 99).batches(), strict=False))
    assert len([r for r in caplog.records if "died with signal" in r.getMessage()]) == 2


def test_a_worker_killed_from_outside_between_batches_is_replaced(voc, caplog):
    steps = [DecodeImage(), Report()]
    made = Loader(load_voc(voc(6), "list.txt"), steps, batch_size=1, workers=2)
    batches = made.batches()
    first = [next(batches)["image"] for _ in range(4)]
    for pid in {int(image[0, 1]) for image in first}:
        os.kill(pid, signal.SIGKILL)
    later = [next(batches)["image"] for _ in range(8)]
    made.close()
    assert {int(image[0, 1]) for image in later[-2:]}.isdisjoint({int(image[0, 1]) for image in first})
    assert "died with signal SIGKILL" in caplog.text


def test_signals_of_a_terminal_or_a_scheduler_do_not_end_workers(voc):
    made = Loader(load_voc(voc(4), "list.txt"), [DecodeImage(), Report()], batch_size=1, workers=1)
    batches = made.batches()
    pid = int(next(batches)["image"][0, 1])
    for number in (signal.SIGINT, signal.SIGTERM):
        os.kill(pid, number)
    assert [int(next(batches)["image"][0, 1]) for _ in range(6)] == [pid] * 6
    made.close()
    assert not alive(pid)


STUCK = """
import sys
from slim_distill.data import Loader, load_voc
from tests.data.test_worker_faults import Sleep
from slim_distill.data.transforms import DecodeImage
next(Loader(load_voc(sys.argv[1], "list.txt"), [DecodeImage(), Sleep()], batch_size=1, workers=2).batches())
"""


def test_a_worker_that_hangs_ends_with_its_killed_parent(voc):
    root = voc(4)
    with subprocess.Popen([sys.executable, "-c", STUCK, str(root)]) as parent:
        until = time.monotonic() + 60
        while len(found := list((root / "JPEGImages").glob("*.pid"))) < 2 and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(0.1)
        pids = [int(path.read_text()) for path in found]
        assert len(pids) == 2
        assert all(alive(pid) for pid in pids)
        parent.kill()
    assert all_end(pids)


def test_too_many_open_files_say_what_to_do(voc):
    root, (soft, hard) = voc(4), resource.getrlimit(resource.RLIMIT_NOFILE)
    data = load_voc(root, "list.txt")
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        while len(held) < 64:
            held.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        made = Loader(data, [DecodeImage()], batch_size=1, workers=1)
        with pytest.raises(DataError, match="cannot be started: Too many open files.*raise `ulimit -n`"):
            next(made.batches())
        for descriptor in held[-4:]:
            os.close(descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held[:-4]:
            os.close(descriptor)


def test_an_image_that_cannot_be_opened_for_want_of_files_or_memory_is_not_skipped(voc, monkeypatch):
    def refuse(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    made = Loader(load_voc(voc(4), "list.txt", max_bad_share=1.0), [DecodeImage()], batch_size=1)
    monkeypatch.setattr("pathlib.Path.read_bytes", refuse)
    with pytest.raises(DataError, match=r"im0\.png: Too many open files.*raise `ulimit -n`"):
        next(made.batches())
    assert made.skipped == {}


def test_a_batch_whose_descriptor_was_dropped_is_an_error_not_a_batch():
    with pytest.raises(DataError, match="Too many open files.*raise `ulimit -n`"):
        _workers._map(None, 8)


@pytest.mark.parametrize(
    ("number", "help_"),
    [(errno.ENOSPC, "free space"), (errno.ENOMEM, "lower data.train.batch_size"), (errno.EROFS, "read-only")],
)
def test_what_a_worker_lacks_reaches_the_user_with_what_to_do(number, help_, monkeypatch):
    ours, theirs = _workers.socket.socketpair()

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(_workers, "_send_batch", refuse)
    monkeypatch.setattr(_workers.signal, "signal", lambda *_: None)
    monkeypatch.setattr(_workers, "_end_with", lambda *_: None)
    with ours:
        _workers._send(ours, (_workers.pickle.dumps(None), 0, 1, None))
        ours.sendall(b"+")
        ours.shutdown(_workers.socket.SHUT_WR)
        _workers.main(theirs.detach())
        message, _ = _workers._receive(ours)
    assert message[0] == "error"
    assert os.strerror(number) in message[1]
    assert help_ in message[1]


def test_room_for_a_batch_is_reserved_where_a_lack_of_it_is_an_error(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))
    try:
        with (tmp_path / "a").open("w+b") as file:
            _workers._reserve(file, 1 << 12)
            with pytest.raises(OSError, match="File too large"):
                _workers._reserve(file, 1 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert np.fromfile(tmp_path / "a", "u1").shape == (1 << 12,)
