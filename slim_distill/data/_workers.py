"""Worker processes of the loader.

A worker is a fresh interpreter that imports this package alone: no fork of a process in which Paddle runs threads, no
second import of the user's script, no Paddle. It is given a pickled BatchMaker and builds every n-th batch in order.

Arrays come back without a copy: the worker stacks a batch right into an anonymous file in memory and passes its
descriptor through the socket; the parent maps it. No name exists, so nothing is left behind, whoever dies how.
The socket is also the leash: the worker builds a batch only for a credit byte, and ends when the parent's side closes,
at once and whatever it is doing.

A worker that is killed is replaced: a batch is a function of its number, so the next worker builds the same one.
"""

import contextlib
import errno
import logging
import math
import mmap
import os
import pickle
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from typing import Any

import cv2
import numpy as np

from slim_distill.common.errors import DataError, SlimDistillError
from slim_distill.common.resources import explain
from slim_distill.data.batches import BatchMaker, stack

__all__ = ["WorkerPool", "main", "supported"]

_log = logging.getLogger("slim_distill.data")

Batch = dict[str, np.ndarray]

_AHEAD = 2  # batches a worker may have built that nobody has asked for yet
_ALIGN = 64  # bytes; where arrays begin in the shared file
_CLOSE_TIMEOUT_S = 5.0
_MOST_DEATHS = 3  # over one sample, or one batch
_WHY = {
    "SIGKILL": "; the system kills so when memory runs out: lower data.train.workers or batch_size",
    "SIGBUS": "; shared memory or a disk is full: lower data.train.workers or batch_size",
    "SIGSEGV": "; a file can crash its decoder: look at this one, or remove it",
}
_HEADER = struct.Struct("<Q")


def supported() -> bool:
    """Whether this system can pass descriptors between processes (not Windows)."""
    return hasattr(socket, "send_fds") and hasattr(socket, "AF_UNIX")


class WorkerPool:
    """Worker processes that build the batches `start`, `start` + 1, ... up to `stop` (None: without end).

    Use it as a context manager or call `close`.
    """

    def __init__(self, maker: BatchMaker, workers: int, start: int, stop: int | None) -> None:
        self._maker = maker
        self._number = start
        self._start, self._stop, self._count = start, stop, workers
        self._workers: list[_Worker] = []
        self._deaths: Counter[str] = Counter()
        self._code = pickle.dumps(maker, protocol=pickle.HIGHEST_PROTOCOL)
        try:
            self._workers += [self._worker(start + offset) for offset in range(workers)]
        except BaseException:
            self.close()
            raise

    def _worker(self, first: int) -> "_Worker":
        """A worker that builds batch `first` and every `count`-th after it."""
        try:
            worker = _Worker()
        except OSError as error:
            raise DataError(f"a worker process of the loader cannot be started: {explain(error)}") from error
        worker.send((self._code, first, self._count, self._stop))
        return worker

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def next(self) -> tuple[Batch | None, dict[str, str]]:
        """Return the next batch, None when none of its images was readable, and file -> reason of unreadable images.

        A worker that was killed is replaced, with a warning that says what it was reading.

        Raises:
            DataError: the batch could not be built, or its workers died again and again.
        """
        if not self._workers:
            raise DataError(f"{self._maker.dataset.source}: the loader was closed; ask it for a new iterator")
        place = (self._number - self._start) % len(self._workers)
        at: int | None = None
        while True:
            worker = self._workers[place]
            try:
                kind, *rest = worker.receive()
            except (EOFError, ConnectionError) as error:
                self._mourn(worker, at, error)
                worker.close()
                self._workers[place] = self._worker(self._number)
                at = None
                continue
            if kind == "error":
                raise DataError(rest[0])
            if kind == "batch":
                self._number += 1
                worker.credit()
                return rest[0], rest[1]
            at = rest[0]

    def close(self) -> None:
        """End all workers and wait for them."""
        for worker in self._workers:
            worker.close()
        self._workers = []

    def _mourn(self, worker: "_Worker", at: int | None, error: Exception) -> None:
        """Say that a worker died, and over what.

        Raises:
            DataError: it ended by itself, or too many died over this sample or batch.
        """
        where = f"while it prepared batch {self._number}" if worker.spoke else "while it started"
        if at is not None:
            where = f"while it prepared {self._maker.dataset.records[at]['im_file']} (batch {self._number})"
        status, killed = worker.exit_status()
        source = self._maker.dataset.source
        what = f"{source}: a worker process of the loader (pid {worker.pid}) died with {status} {where}"
        why = next((text for name, text in _WHY.items() if status.endswith(name)), "")
        keys = {f"batch {self._number}", *([] if at is None else [f"sample {at}"])}
        self._deaths.update(keys)
        most = max(self._deaths[key] for key in keys)
        if killed and most < _MOST_DEATHS:
            _log.warning("%s%s. Another one builds the same batch", what, why)
            return
        often = f"; {most} have died over this" if most > 1 else ""
        raise DataError(
            f"{what}{often}{why}; what it said is above; workers=0 builds batches in this process, where the fault "
            "can be seen"
        ) from error


class _Worker:
    """The parent's end of one worker."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair()
        paths = os.pathsep.join(p or os.getcwd() for p in sys.path)
        one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with theirs:
            self._process = subprocess.Popen(  # nosec B603 # this interpreter and a text of ours, no shell
                [sys.executable, "-c", f"from slim_distill.data._workers import main; main({theirs.fileno()})"],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, **one_thread, "PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
            )
        self.pid = self._process.pid
        self.spoke = False

    def send(self, message: object) -> None:
        with contextlib.suppress(ConnectionError):  # it died at once: receive() will say so
            _send(self._socket, message)
            for _ in range(_AHEAD):
                self.credit()

    def credit(self) -> None:
        with contextlib.suppress(ConnectionError):  # it has ended, after its last batch or by force
            self._socket.sendall(b"+")

    def receive(self) -> tuple[Any, ...]:
        message, descriptor = _receive(self._socket)
        self.spoke = True
        if message[0] != "batch" or message[1] is None:
            return message
        _, layout, size, skipped = message
        memory = _map(descriptor, size)
        arrays = {
            name: np.frombuffer(memory, dtype, math.prod(shape), offset).reshape(shape)
            for name, (shape, dtype, offset) in layout.items()
        }
        return "batch", arrays, skipped

    def exit_status(self) -> tuple[str, bool]:
        """How the process ended, in words, and whether something else ended it."""
        try:
            code = self._process.wait(_CLOSE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "its socket closed, though it still runs,", False
        return (f"signal {signal.Signals(-code).name}", True) if code < 0 else (f"exit code {code}", False)

    def close(self) -> None:
        self._socket.close()
        self._process.kill()  # it has nothing to save
        self._process.wait()


def _map(descriptor: int | None, size: int) -> mmap.mmap:
    """Map the memory behind a received descriptor, and close that; a process that may open no more gets none."""
    if descriptor is None:
        raise DataError(f"a batch could not be received: {explain(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))}")
    try:
        return mmap.mmap(descriptor, size)
    except OSError as error:
        raise DataError(f"a batch of {size} bytes could not be mapped: {explain(error)}") from error
    finally:
        os.close(descriptor)


def main(descriptor: int) -> None:
    """Serve the parent at the other end of socket `descriptor`: the body of a worker process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent's to handle; it will close the socket
    cv2.setNumThreads(1)
    threading.Thread(target=_end_with, args=(descriptor,), daemon=True).start()
    with socket.socket(fileno=descriptor) as channel, contextlib.suppress(ConnectionError, EOFError):
        (code, number, step, stop), _ = _receive(channel)
        try:
            maker = pickle.loads(code)  # nosec B301 # from our own parent
            while stop is None or number < stop:
                if not channel.recv(1):
                    return
                _send_batch(channel, maker, number)
                number += step
        except SlimDistillError as error:
            _send(channel, ("error", str(error)))
        except (ConnectionError, EOFError):
            raise
        except (OSError, MemoryError) as error:
            _send(channel, ("error", f"batch {number} cannot be built: {explain(error)}"))
        while channel.recv(64):  # stay until the parent has read everything and closes
            pass


def _end_with(descriptor: int) -> None:
    """End this process when the other side of a socket closes, even in the middle of a batch that never ends."""
    poll = select.poll()
    poll.register(descriptor, 0)  # only the end is waited for
    poll.poll()
    os._exit(0)


def _send_batch(channel: socket.socket, maker: BatchMaker, number: int) -> None:
    built = maker.build(number, started=lambda index: _send(channel, ("at", index)))
    if not built.samples:
        _send(channel, ("batch", None, built.skipped))
        return
    lists = maker.arrays(built)
    layout, size = {}, 0
    for name, arrays in lists.items():
        layout[name] = ((len(arrays), *arrays[0].shape), arrays[0].dtype.str, size)
        size += -(-len(arrays) * arrays[0].nbytes // _ALIGN) * _ALIGN
    with _anonymous_file() as file:
        _reserve(file, size)
        with mmap.mmap(file.fileno(), size) as memory:
            places = iter(layout.values())

            def allocate(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
                return np.frombuffer(memory, dtype, math.prod(shape), next(places)[2]).reshape(shape)

            stack(lists, allocate)
        _send(channel, ("batch", layout, size, built.skipped), file.fileno())


def _reserve(file: Any, size: int) -> None:
    """Make room now, where a lack of it is an error; later it would end the process by a signal."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


def _anonymous_file() -> Any:
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("slim_distill"), "w+b")
    return tempfile.TemporaryFile()


def _send(channel: socket.socket, message: object, descriptor: int | None = None) -> None:
    data = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    if descriptor is None:
        channel.sendall(_HEADER.pack(len(data)) + data)
    else:
        socket.send_fds(channel, [_HEADER.pack(len(data))], [descriptor])
        channel.sendall(data)


def _receive(channel: socket.socket) -> tuple[Any, int | None]:
    flags = getattr(socket, "MSG_CMSG_CLOEXEC", 0)
    header, descriptors, _, _ = socket.recv_fds(channel, _HEADER.size, 1, flags)
    header += _read(channel, _HEADER.size - len(header)) if header else b""
    if not header:
        raise EOFError("the other side has closed")
    message = pickle.loads(_read(channel, _HEADER.unpack(header)[0]))  # nosec B301 # an unnamed socket to our own child
    return message, descriptors[0] if descriptors else None


def _read(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = channel.recv(min(size - len(data), 1 << 20))
        if not part:
            raise EOFError("the other side has closed")
        data += part
    return bytes(data)
