"""`Ranks`: the processes of one training, and what they do together."""

import logging
import secrets
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import paddle
from paddle import distributed

from slim_distill.common.errors import SlimDistillError, TrainingError
from slim_distill.common.launch import Launch, launched
from slim_distill.common.names import first_few
from slim_distill.engine._links import Link, join, listen
from slim_distill.engine._watch import LOST_RANK_EXIT, Watch
from slim_distill.engine.session import Session

__all__ = ["ALONE", "LOST_RANK_EXIT", "SLOW", "Ranks", "connect"]

log = logging.getLogger(__name__)

_KINDS = ("talk", "watch")
_FAILED = b"\1"
_ALONE = Launch()

SLOW = 10.0
"""Writing and scoring may take so many times longer than a step."""


class Ranks:
    """The processes that train together, as one of them sees them; one process alone by default.

    Gradients do not pass here, they are exchanged inside the program (`graph.AllReduce`). This is for everything
    else: one decision for all, results of a split evaluation, and the end of all when one ends.
    """

    def __init__(
        self, place: Launch = _ALONE, links: dict[int, Link] | None = None, watch: Watch | None = None
    ) -> None:
        self.rank, self.count = place.rank, place.ranks
        self._links, self._watch = links or {}, watch

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes logs, checkpoints and results."""
        return self.rank == 0

    def settle(self, mine: bytes, decide: Callable[[Sequence[bytes]], bytes]) -> bytes:
        """Every rank hands in something; rank 0 makes one answer of all; every rank gets it.

        All ranks must call this the same number of times in the same order. There is no time limit, as rank 0 may be
        busy writing; a rank that dies ends this process (see `Watch`).

        Args:
            mine: what this rank hands in.
            decide: called in rank 0 with what all handed in, by rank.

        Raises:
            TrainingError: `decide` raised a SlimDistillError in rank 0; it is raised in every rank.
        """
        try:
            if not self.first:
                self._links[0].send(mine)
                answer = self._links[0].receive()
            else:
                handed_in = [mine, *(self._links[rank].receive() for rank in range(1, self.count))]
                try:
                    answer = b"\0" + decide(handed_in)
                except SlimDistillError as error:
                    answer = _FAILED + str(error).encode()
                for link in self._links.values():
                    link.send(answer)
        except OSError as error:
            raise self.failed("an exchange with the other ranks", error) from error
        if answer[:1] == _FAILED:
            raise TrainingError(answer[1:].decode())
        return answer[1:]

    def wait(self) -> None:
        """Wait until every rank is here."""
        if self.count > 1:
            self.settle(b"", lambda _: b"")

    def same_path(self, find: Callable[[], Path | None]) -> Path | None:
        """What `find` finds in rank 0, for every rank.

        Raises:
            TrainingError: a rank does not see it.
        """
        found = self.settle(b"", lambda _: str(find() or "").encode()).decode()
        path = Path(found) if found else None
        blind = self.settle(b"" if path is None or path.exists() else b"!", lambda seen: bytes(map(len, seen)))
        if any(blind):
            raise TrainingError(
                f"rank {', '.join(str(rank) for rank, there in enumerate(blind) if there)} cannot see {path}: "
                "output_dir must be on a file system that all machines share, under the same path"
            )
        return path

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any rank; the same in all."""
        return self.settle(b"1" if flag else b"", lambda flags: b"1" if any(flags) else b"") == b"1"

    @contextmanager
    def limited(self, what: str, times: float = 1.0) -> Iterator[None]:
        """What is done inside must not take longer than `times * parallel.timeout_s`, or all processes stop."""
        if self._watch is None:
            yield
            return
        self._watch.limit(what, times)
        try:
            yield
        finally:
            self._watch.limit(None)

    def check_drift(self, session: Session, names: Iterable[str], when: str) -> None:
        """Make sure that all ranks hold the same numbers, bit for bit.

        Raises:
            TrainingError: some do not; the message names variables and ranks.
        """
        if self.count == 1:
            return
        ordered = list(names)
        sums = [zlib.crc32(array.tobytes()) for array in session.read(ordered).values()]

        def compare(handed_in: Sequence[bytes]) -> bytes:
            table = [np.frombuffer(row, np.uint32) for row in handed_in]
            if any(len(row) != len(ordered) for row in table):
                raise TrainingError(f"{when}: the ranks hold {sorted({len(row) for row in table})} variables")
            differs = np.stack(table) != table[0]
            if differs.any():
                odd = [ordered[i] for i in np.flatnonzero(differs.any(0))]
                ranks = ", ".join(str(rank) for rank in np.flatnonzero(differs.any(1)))
                raise TrainingError(
                    f"{when}: {len(odd)} of {len(ordered)} variables of rank {ranks} are not those of rank 0: "
                    f"{first_few(odd)}. The ranks have drifted apart: all must run the same software on the same kind "
                    "of device; go on from an earlier checkpoint"
                )
            return b""

        self.settle(np.asarray(sums, np.uint32).tobytes(), compare)

    def leave(self, error: BaseException | None = None) -> None:
        """End the connections: in order when nothing is wrong, else so that the other ranks stop too."""
        if self._watch is None:
            return
        if error is None:
            self.wait()
        reason = "" if error is None else f"{type(error).__name__}: {error}".splitlines()[0]
        self._watch.leave(reason)
        self._watch.join(5.0)
        for link in self._links.values():
            link.close()

    def failed(self, what: str, error: Exception) -> TrainingError:
        """The error for an exchange that failed; usually another rank is gone, and then the watch ends this process."""
        if self._watch is not None:
            time.sleep(2 * self._watch.pulse_s + 1.0)
        return TrainingError(
            f"{what} failed in rank {self.rank} of {self.count}: {error}. If another rank has ended, or did not answer "
            "for 30 s (gloo's own limit), its log says more"
        )


ALONE = Ranks()
"""One process that trains by itself."""


def connect(timeout_s: float, place: Launch | None = None) -> Ranks:
    """Join the other processes that the launcher started: gloo on CPUs, NCCL on GPUs; alone without a launcher.

    Call it before anything else of a training, in every rank. Paddle is left in static mode if it was.

    Args:
        timeout_s: how long a rank may be silent or busy with one step before all stop.
        place: of this process; from the environment by default.

    Raises:
        TrainingError: a rank does not come, or cannot be reached.
    """
    place = launched() if place is None else place
    if place.ranks == 1:
        return Ranks(place)
    static = not paddle.in_dynamic_mode()
    paddle.disable_static()
    try:
        _join_group()
        links = _connect(place, timeout_s)
    finally:
        if static:
            paddle.enable_static()
    watch = Watch(place.rank, links["watch"], timeout_s)
    watch.start()
    if place.rank == 0:
        log.info("%d processes train together", place.ranks)
    return Ranks(place, links["talk"], watch)


def _join_group() -> None:
    """Let Paddle connect this process with the others."""
    try:
        distributed.init_parallel_env()
    except RuntimeError as error:
        raise TrainingError(
            f"the processes cannot reach each other: {' '.join(str(error).split())[-200:]}. gloo takes the network "
            "that the host's own name stands for, often 127.0.0.1, where no other machine can be found: set "
            "GLOO_SOCKET_IFNAME on each machine to the interface that leads to the others (`ip address` lists them)"
        ) from error


def _connect(place: Launch, timeout_s: float) -> dict[str, dict[int, Link]]:
    """{kind: {rank: link}} of this process: all others for rank 0, which tells them its port, else rank 0 alone."""

    def told(port: int) -> tuple[int, str]:
        """The port of rank 0 and a secret number of its own, in every rank."""
        numbers = paddle.to_tensor([port, secrets.randbits(62)], dtype="int64")
        distributed.broadcast(numbers, src=0)
        return int(numbers[0]), str(int(numbers[1]))

    if place.rank == 0:
        return listen(place.host, place.ranks, _KINDS, lambda port: told(port)[1], timeout_s)
    port, token = told(0)
    return {kind: {0: join(place.host, port, place.rank, kind, token, timeout_s)} for kind in _KINDS}
