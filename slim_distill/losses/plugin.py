"""Loss functions of a user's own file. Reading such a file runs it: nothing but an explicit option may lead here."""

import importlib.util
import logging
from collections.abc import Callable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from slim_distill.common.errors import LossError
from slim_distill.losses.table import LOSSES

__all__ = ["load_losses"]

log = logging.getLogger(__name__)


def load_losses(path: str | PathLike[str], known: Mapping[str, Callable[..., Any]] = LOSSES) -> dict[str, Any]:
    """Run a Python file and return the table of losses with those of its dictionary `LOSSES` added.

    A function takes `student` and `teacher` first and keyword arguments after, annotated like those of
    `slim_distill.losses`, and returns a scalar.

    Args:
        path: the file; it runs with all rights of this process.
        known: losses that are there already.

    Raises:
        LossError: there is no such file, it fails, its `LOSSES` is no dictionary of functions, or a name is taken.
    """
    file = Path(path)
    if not file.is_file():
        raise LossError(f"plugin: there is no file {file}")
    log.warning("running the code of %s", file)
    spec = importlib.util.spec_from_file_location(f"slim_distill_plugin_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise LossError(f"plugin: {file} is no Python file; its name must end in .py")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise LossError(f"plugin: {file} fails: {type(error).__name__}: {error}") from error
    found = getattr(module, "LOSSES", None)
    if not isinstance(found, Mapping) or not found or not all(callable(function) for function in found.values()):
        raise LossError(f"plugin: {file} must define LOSSES = {{'name': function, ...}}, found {found!r}")
    taken = sorted(set(found) & set(known))
    if taken:
        raise LossError(f"plugin: {file} redefines the loss {taken[0]!r}; give yours another name")
    return {**known, **found}
