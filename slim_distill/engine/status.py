"""`status.json` in a run's folder: what the run is doing, or how it ended."""

import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from slim_distill.common.errors import ConfigError, Preempted, SlimDistillError
from slim_distill.common.files import atomic_write, lock_held

__all__ = ["GONE", "STATUS", "StatusFile", "lock_path", "read_status", "render_status"]

log = logging.getLogger(__name__)

STATUS = "status.json"
RUNNING, FINISHED, PREEMPTED, FAILED, INTERRUPTED = "running", "finished", "preempted", "failed", "interrupted"
GONE = "stopped (no process)"


def lock_path(folder: Path) -> Path:
    """The file that a running run holds a lock on; beside the folder, which may be renamed."""
    folder = folder.absolute()
    return folder.with_name(f".{folder.name}.lock")


class StatusFile:
    """Writes what is known of a run, whole at every moment.

    A disk that takes no status is logged once, and the run goes on: the next checkpoint shows whether it can.

    Args:
        folder: of the run.
        name: of the run.
        devices: how many train together.
    """

    def __init__(self, folder: Path, name: str, devices: int = 1) -> None:
        self.path, self.devices = folder / STATUS, devices
        self._refused = ""
        self._known: dict[str, Any] = {
            "name": name, "state": RUNNING, "step": 0, "max_iters": None, "remaining_s": None, "images_per_s": None,
            "images_per_s_per_device": None, "devices": devices, "losses": {}, "metric": None, "best": None,
            "last_checkpoint": None, "error": None, "pid": os.getpid(), "host": socket.gethostname(),
            "started": _now(),
        }  # fmt: skip

    def report(self, **known: Any) -> None:
        """Lay new entries over the known ones and write them all."""
        self._known |= known
        if known.get("images_per_s") is not None:
            self._known["images_per_s_per_device"] = known["images_per_s"] / self.devices
        try:
            with atomic_write(self.path, "w", sync=False) as file:
                json.dump({**self._known, "time": _now()}, file, indent=1)
        except SlimDistillError as error:
            if not self._refused:
                log.warning("%s; training goes on", error)
            self._refused = str(error)

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Say how the block ends."""
        try:
            yield
        except Preempted as stopped:
            self.report(state=PREEMPTED, error=str(stopped), remaining_s=None)
            raise
        except KeyboardInterrupt:
            self.report(state=INTERRUPTED, error="interrupted before the first step", remaining_s=None)
            raise
        except BaseException as error:
            said = str(error) if isinstance(error, SlimDistillError) else repr(error)
            self.report(state=FAILED, error=said, remaining_s=None)
            raise
        self.report(state=FINISHED, remaining_s=0.0)


def read_status(folder: Path) -> dict[str, Any]:
    """The status of the run in `folder`; one whose process is gone without a word is told as `GONE`.

    Raises:
        ConfigError: there is none, or it cannot be read.
    """
    path = folder / STATUS
    try:
        status = json.loads(path.read_text(encoding="utf-8"))
        if status["state"] == RUNNING and not lock_held(lock_path(folder)):
            status["state"] = GONE
        render_status(status)  # stumbles over values that are none of ours
    except (FileNotFoundError, NotADirectoryError) as error:
        known = sorted(str(found.parent) for found in folder.glob(f"*/{STATUS}")) if folder.is_dir() else []
        hint = f"; there is one in {', '.join(known[:5])}" if known else "; give a run's folder, output_dir/name"
        raise ConfigError(f"{folder}: no {STATUS} there{hint}") from error
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{path} cannot be read ({error!r:.200})") from error
    return status


def render_status(status: dict[str, Any]) -> str:
    """A status in a few lines for people."""

    def number(key: str, form: str) -> str:
        return "unknown" if status.get(key) is None else form.format(status[key])

    remaining = status.get("remaining_s")
    lines = {
        "run": f"{status.get('name')}: {status['state']}",
        "step": f"{status.get('step')} of {number('max_iters', '{}')}"
        + (f", {time.strftime('%H:%M:%S', time.gmtime(remaining))} left" if remaining and remaining < 86400 else "")
        + (f", {remaining / 86400:.1f} days left" if remaining and remaining >= 86400 else ""),
        "speed": f"{number('images_per_s', '{:.1f}')} images/s on {status.get('devices')} device(s), "
        f"{number('images_per_s_per_device', '{:.1f}')} each",
        "losses": ", ".join(f"{name} {value:.5g}" for name, value in status.get("losses", {}).items()) or "none yet",
        "metric": f"{number('metric', '{:.4f}')}, best {number('best', '{:.4f}')}",
        "last checkpoint": status.get("last_checkpoint") or "none yet",
        "process": f"{status.get('pid')} on {status.get('host')}, since {status.get('started')}",
        "as of": status.get("time"),
    }
    if status.get("error"):
        lines["error" if status["state"] == FAILED else "note"] = status["error"]
    width = max(map(len, lines))
    return "".join(f"{name:<{width}}  {value}\n" for name, value in lines.items())


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S%z")
