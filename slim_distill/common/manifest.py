"""`manifest.json`: what a folder holds, with sizes and checksums, and a checksum of itself."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from slim_distill.common.errors import WeightsError

__all__ = ["MANIFEST", "check_listed", "fingerprint", "manifest_text", "read_manifest"]

MANIFEST = "manifest.json"
OWN = "manifest_sha256"
WITHOUT_OWN = 1  # the format that had no checksum of itself
HINT = "use an earlier checkpoint"


def fingerprint(path: Path) -> dict[str, Any]:
    """Size in bytes and SHA-256 of a file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"size": path.stat().st_size, "sha256": digest}


def manifest_text(entries: Mapping[str, Any], files: Iterable[Path]) -> str:
    """A manifest of `files` with further entries, as JSON text that carries a checksum of itself."""
    content = {**entries, "files": {path.name: fingerprint(path) for path in files}}
    return json.dumps({**content, OWN: _digest(content)}, indent=1) + "\n"


def read_manifest(folder: Path) -> dict[str, Any]:
    """The entries of a folder's manifest, checked against its own checksum; those of older versions have none.

    Raises:
        FileNotFoundError: the folder has no manifest.
        WeightsError: it cannot be read, or is damaged.
    """
    path = folder / MANIFEST
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        files = {name: (entry["size"], entry["sha256"]) for name, entry in content["files"].items()}
    except FileNotFoundError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path} cannot be read ({error!r}); {HINT}") from error
    own = content.pop(OWN, None)
    if own is None and content.get("format") == WITHOUT_OWN + 1:
        raise WeightsError(f"{path} is damaged: it has no checksum of itself; {HINT}")
    if own is not None and own != _digest(content):
        raise WeightsError(f"{path} is damaged: its checksum is not that of its content; {HINT}")
    outside = [name for name in files if Path(name).name != name]
    if outside:
        raise WeightsError(f"{path} lists {outside[0]!r}, which is no file of its folder")
    return content


def check_listed(folder: Path, files: Mapping[str, Any], names: Iterable[str]) -> None:
    """Check files of a folder against the `files` entry of its manifest.

    Raises:
        WeightsError: one is missing or damaged; the message names it.
    """
    for name in names:
        path = folder / name
        try:
            found = fingerprint(path)
        except FileNotFoundError as error:
            raise WeightsError(f"{folder}: {name} is missing; {HINT}") from error
        except OSError as error:
            raise WeightsError(f"{path} cannot be read ({error.strerror}); {HINT}") from error
        if found != files[name]:
            raise WeightsError(f"{path} is damaged: its size or checksum is not the manifest's; {HINT}")


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
