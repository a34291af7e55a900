"""A network switch in this process, which hands every frame on some time later: latency without the kernel's netem."""

import fcntl
import os
import select
import struct
import subprocess
import threading
import time
from collections import deque
from contextlib import ExitStack

__all__ = ["delayed_links", "ip"]

_ATTACH, _FRAMES, _BARE = 0x400454CA, 0x0002, 0x1000  # TUNSETIFF, IFF_TAP, IFF_NO_PI of linux/if_tun.h
_MTU = 9000


def delayed_links(stack: ExitStack, prefix: str, count: int, delay_ms: float) -> list[str]:
    """Namespaces `prefix`0, ... on one switch: their addresses. Needs root; all is removed when the stack closes.

    Args:
        stack: what is made is removed when it closes.
        prefix: of the namespaces' names.
        count: how many.
        delay_ms: how much later each frame arrives than it was sent, one way.
    """
    ports, hosts = [], []
    for i in range(count):
        name, host, device = f"{prefix}{i}", f"10.213.8.{i + 1}", f"{prefix}{i}t"
        ip("netns", "add", name)
        stack.callback(ip, "netns", "del", name)
        port = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        stack.callback(os.close, port)
        fcntl.ioctl(port, _ATTACH, struct.pack("16sH", device.encode(), _FRAMES | _BARE))
        ip("link", "set", device, "netns", name)
        ip("-n", name, "link", "set", device, "name", "net0", "mtu", str(_MTU))
        ip("-n", name, "addr", "add", f"{host}/24", "dev", "net0")
        for inner in ("net0", "lo"):
            ip("-n", name, "link", "set", inner, "up")
        ports.append(port)
        hosts.append(host)
    over = threading.Event()
    switch = threading.Thread(target=_switch, args=(ports, delay_ms / 1e3, over))
    switch.start()
    stack.callback(switch.join)
    stack.callback(over.set)
    return hosts


def _switch(ports: list[int], delay_s: float, over: threading.Event) -> None:
    """Hand frames on, each `delay_s` after it came, to the port where its receiver was seen last, or to all."""
    seen: dict[bytes, int] = {}
    under_way: deque[tuple[float, int, bytes]] = deque()
    while not over.is_set():
        wait = under_way[0][0] - time.monotonic() if under_way else 0.1
        for port in select.select(ports, [], [], max(0.0, wait))[0]:
            frame = os.read(port, _MTU + 64)
            seen[frame[6:12]] = port
            under_way.append((time.monotonic() + delay_s, port, frame))
        while under_way and under_way[0][0] <= time.monotonic():
            _, source, frame = under_way.popleft()
            to = seen.get(frame[:6])
            for port in [p for p in ports if p != source] if to is None else [to]:
                os.write(port, frame)


def ip(*arguments: str) -> None:
    """Run one `ip` command."""
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
