"""A small world of files in which commands are given bad input, and what is looked at afterwards."""

import ctypes
import hashlib
import io
import logging
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import yaml

from slim_distill.cli import main
from tests.tiny import run_config, write_config, write_voc

__all__ = ["OUTPUTS", "SCREEN_LINES", "Case", "Outcome", "attempt", "case", "edit", "locked", "make_world", "snapshot"]

SCREEN_LINES, SCREEN_COLUMNS = 25, 120
OUTPUTS = ("out", "cache")
"""Where commands may write in the world: the output folder, and the cache of downloads and unpacked archives."""

Prepare = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A command given bad input.

    Attributes:
        command: its arguments.
        files: content by path, written before; None removes the file.
        prepare: called in the world before, for what `files` cannot say.
        say: regular expressions that the message must match, each of them.
    """

    command: tuple[str, ...]
    files: Mapping[str, bytes | str | None]
    prepare: Prepare | None
    say: tuple[str, ...]


def case(
    command: str, *say: str, files: Mapping[str, bytes | str | None] | None = None, prepare: Prepare | None = None
) -> Case:
    """A case whose command is split at blanks; write an argument with blanks as a tuple by `Case` itself."""
    return Case(tuple(command.split()), files or {}, prepare, say)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, what it printed, what was raised, and files that changed elsewhere."""

    code: int | None
    out: str
    err: str
    raised: BaseException | None
    changed: dict[str, str]

    @property
    def message(self) -> str:
        """The error as it is shown."""
        at = self.err.find("error:")
        return self.err[at:] if at >= 0 else ""

    @property
    def screen_lines(self) -> int:
        """Lines of a terminal that standard error takes."""
        return sum(max(1, -(-len(line) // SCREEN_COLUMNS)) for line in self.err.splitlines())


def make_world(root: Path) -> None:
    """Write data set, configuration and weights of a tiny detector below `root`."""
    write_voc(root / "data")
    data = run_config(Path("data"), Path("out"))
    write_config(root / "run.yml", data)
    coco = run_config(Path("data"), Path("out"))
    for split, file in (("train", "train"), ("eval", "test")):
        coco["data"][split]["dataset"] = {
            "format": "coco", "root": "data", "images": "JPEGImages", "annotations": f"annotations/{file}.json",
        }  # fmt: skip
    write_config(root / "coco.yml", coco)
    term = {"loss": "l2", "student": "yolo_head.0", "teacher": "yolo_head.0"}
    teachers = {"teacher_": {"config": "run.yml", "weights": "model.safetensors"}}
    recipe = {"distill": {"teachers": teachers, "terms": [term]}}
    write_config(root / "recipe.yml", recipe)
    for folder in ("out", "cache", "home", "tmp"):
        (root / folder).mkdir()


def edit(path: str, change: Callable[[dict], object]) -> Prepare:
    """A preparation that changes a YAML file as data."""

    def prepare() -> None:
        data = yaml.safe_load(Path(path).read_text())
        change(data)
        write_config(Path(path), data)

    return prepare


def locked(mode: int = 0o555) -> Prepare:
    """A preparation that makes a folder `locked`, in which nobody may write."""

    def prepare() -> None:
        Path("locked").mkdir()
        Path("locked").chmod(mode)

    return prepare


def snapshot(root: Path) -> dict[str, str]:
    """What is below `root` but in its output folders: kind, permissions and content of everything by path."""
    found: dict[str, str] = {}
    for folder, folders, files in os.walk(root):
        if Path(folder) == root:
            folders[:] = [name for name in folders if name not in OUTPUTS]
        for name in (*folders, *files):
            path = Path(folder, name)
            mode = path.lstat().st_mode
            content = ""
            if stat.S_ISLNK(mode):
                content = os.readlink(path)
            elif stat.S_ISREG(mode):
                content = hashlib.sha256(path.read_bytes()).hexdigest()
            found[str(path.relative_to(root))] = f"{stat.filemode(mode)} {content}"
    return found


def attempt(arguments: tuple[str, ...], look: Path = Path()) -> Outcome:
    """Run a command in this process and say how it ended; `look` is the folder whose changes are noticed."""
    before = snapshot(look)
    out, err = _Stream(), _Stream()
    logger = logging.getLogger("slim_distill")
    kept = logger.handlers[:]
    code, raised = None, None
    with redirect_stdout(out), redirect_stderr(err), as_plain_user():
        try:
            code = main(list(arguments))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
        except BaseException as error:  # noqa: BLE001  whatever it is, the test shows it
            raised = error
    logger.handlers[:] = kept
    after = snapshot(look)
    changed = {
        path: f"{before.get(path, 'absent')} -> {after.get(path, 'absent')}"
        for path in sorted({*before, *after})
        if before.get(path) != after.get(path)
    }
    err.flush()
    out.flush()
    return Outcome(code, out.text, err.text, raised, changed)


@contextmanager
def as_plain_user() -> Iterator[None]:
    """Make permissions of files count for the administrator too: this thread goes without the right to ignore them."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the interface; 0 is this thread
    rights = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; twice for 64 bits
    if libc.capget(header, rights) != 0:
        raise OSError(ctypes.get_errno(), "capget")
    effective = rights[0]
    rights[0] = effective & ~0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
    if libc.capset(header, rights) != 0:
        raise OSError(ctypes.get_errno(), "capset")
    try:
        yield
    finally:
        rights[0] = effective
        if libc.capset(header, rights) != 0:
            raise OSError(ctypes.get_errno(), "capset")


class _Stream(io.TextIOWrapper):
    """A text stream in memory that is as strict about its encoding as a terminal's is."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        super().__init__(self._bytes, encoding="utf-8", write_through=True)

    @property
    def text(self) -> str:
        return self._bytes.getvalue().decode("utf-8", "backslashreplace")
