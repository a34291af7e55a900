"""Connections between the processes of one training: each with rank 0, over plain sockets."""

import contextlib
import hmac
import json
import socket
import struct
import time
from collections.abc import Callable, Sequence

from slim_distill.common.errors import TrainingError

__all__ = ["Link", "join", "listen"]

_HEADER = struct.Struct("<Q")
_LONGEST_HELLO = 1 << 10


class Link:
    """A connection that carries messages: bytes of any length. Not for use by two threads."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, message: bytes) -> None:
        """Send one message."""
        self.socket.sendall(_HEADER.pack(len(message)) + message)

    def receive(self, longest: int | None = None) -> bytes:
        """Wait for one message.

        Raises:
            ConnectionError: the other side has closed, or sends more than `longest` bytes.
        """
        (size,) = _HEADER.unpack(self._read(_HEADER.size))
        if longest is not None and size > longest:
            raise ConnectionError(f"a message of {size} bytes where at most {longest} were expected")
        return self._read(size)

    def close(self) -> None:
        """Close the connection; the other side sees its end."""
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def _read(self, size: int) -> bytes:
        parts, left = [], size
        while left:
            part = self.socket.recv(min(left, 1 << 20))
            if not part:
                raise ConnectionError("the other side has closed")
            parts.append(part)
            left -= len(part)
        return b"".join(parts)


def listen(
    host: str, ranks: int, kinds: Sequence[str], publish: Callable[[int], str], timeout_s: float
) -> dict[str, dict[int, Link]]:
    """Wait for one connection of each kind from every other rank: {kind: {rank: link}}.

    Args:
        host: address to listen at; the port is any free one.
        ranks: number of processes, this one (rank 0) included.
        kinds: names of the connections.
        publish: called with the port once callers are welcome; returns what they must show, others are sent away.
        timeout_s: how long to wait for all of them.

    Raises:
        TrainingError: not all came in time.
    """
    links: dict[str, dict[int, Link]] = {kind: {} for kind in kinds}
    until = time.monotonic() + timeout_s
    with socket.create_server((host, 0), backlog=2 * ranks) as server:
        token = publish(server.getsockname()[1])
        while any(len(found) < ranks - 1 for found in links.values()):
            server.settimeout(max(0.01, until - time.monotonic()))
            try:
                connection, _ = server.accept()
            except TimeoutError:
                missing = sorted({*range(1, ranks)} - {rank for found in links.values() for rank in found})
                raise TrainingError(
                    f"rank {', '.join(map(str, missing)) or 'of some connection'} did not call rank 0 within "
                    f"{timeout_s:g} s; see the logs of the other ranks"
                ) from None
            connection.settimeout(5.0)
            link = Link(connection)
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # a stranger
                hello = json.loads(link.receive(_LONGEST_HELLO))
                if hmac.compare_digest(str(hello["token"]), token) and 0 < int(hello["rank"]) < ranks:
                    connection.settimeout(None)
                    links[hello["kind"]][int(hello["rank"])] = link
                    continue
            link.close()
    return links


def join(host: str, port: int, rank: int, kind: str, token: str, timeout_s: float) -> Link:
    """Connect to rank 0.

    Raises:
        TrainingError: it cannot be reached.
    """
    try:
        connection = socket.create_connection((host, port), timeout=timeout_s)
    except OSError as error:
        raise TrainingError(
            f"rank {rank} cannot reach rank 0 at {host}:{port} ({error.strerror or error}); "
            "all ports must be open between the machines of one training"
        ) from error
    connection.settimeout(None)
    link = Link(connection)
    link.send(json.dumps({"token": token, "rank": rank, "kind": kind}).encode())
    return link
