"""Fetching weights into a cache: progress, resume after a break, a lock for several processes, checksums, time-outs."""

import hashlib
import json
import logging
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote, unquote, urldefrag, urlsplit

from tqdm import tqdm

from slim_distill.common.archive import file_sha256
from slim_distill.common.errors import WeightsError
from slim_distill.common.files import atomic_write, cache_folder, file_lock

__all__ = ["check_sha256", "fetch", "is_url"]

logger = logging.getLogger("slim_distill.download")

ATTEMPTS = 4
PAUSE_S = 0.2
PIECE = 1 << 18
MAX_BYTES = 64 << 30
# A server that sends less than this in one time-out is as good as silent.
MIN_BYTES_PER_TIMEOUT = 1024
WORTH_RETRYING = frozenset({408, 425, 429, 500, 502, 503, 504})
RANGE_NOT_SATISFIABLE = 416
SHA256 = re.compile(r"[0-9a-f]{64}")


def is_url(source: str) -> bool:
    """Whether this is written as a URL; then it is one for `fetch`, of whatever scheme."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://|file:/", source) is not None


def fetch(url: str, cache_dir: str | Path | None = None, sha256: str | None = None, timeout_s: float = 30.0) -> Path:
    """Return a local path with the content of a URL, downloading it unless the cache has it.

    Two processes that ask for one URL make one download; a broken one goes on where it stopped, also in a later run.
    Progress goes to stderr.

    Args:
        url: http, https or file (used where it is); `#sha256=HEX` at the end is the checksum.
        cache_dir: see `files.cache_folder`.
        sha256: the checksum, 64 hexadecimal digits. Without one, a `.sha256` file beside the URL is asked for, and
            later uses of the cached file are checked against what was downloaded.
        timeout_s: longest silence of the server, seconds.

    Raises:
        WeightsError: unknown scheme, no such file, no connection, time-out, wrong size or checksum, or the cache
            cannot be written; names the URL and the reason.
    """
    address, expected = _split(url, sha256)
    parts = urlsplit(address)
    if parts.scheme == "file":
        path = _file_path(address)
        check_sha256(path, expected)
        return path
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise WeightsError(f"{url}: cannot fetch this; known are http://, https:// and file:// addresses, and paths")
    target = cache_folder(cache_dir) / _cache_name(address)
    with file_lock(_beside(target, ".lock"), error=WeightsError):
        if not _is_cached(target, expected):
            download = _Download(address, _beside(target, ".part"), timeout_s)
            download.run()
            if expected is None:
                expected = download.published_sha256()
            _accept(download.part, target, expected, address)
    return target


def check_sha256(path: Path, expected: str | None = None) -> None:
    """Check a file against `expected` or, without one, against the file `PATH.sha256` beside it if there is one.

    Raises:
        WeightsError: the checksum is another, or is given for a folder; names both checksums.
    """
    beside = _beside(path, ".sha256")
    if expected is None and beside.is_file():
        expected = _read_sha256(beside)
    if expected is None:
        return
    if not path.is_file():
        raise WeightsError(
            f"{path}: a checksum is given, but this is not a file" if path.exists() else f"{path}: no such file"
        )
    found = file_sha256(path)
    if found != expected.lower():
        raise WeightsError(f"{path}: its SHA-256 is {found}, must be {expected}: a damaged or another file")


def _split(url: str, sha256: str | None) -> tuple[str, str | None]:
    """Take the checksum off the end of a URL and check its form."""
    try:
        address, fragment = urldefrag(url)
        parts = urlsplit(address)
        # What the connection would choke on later: a port that is none, a host that cannot be asked for.
        (parts.hostname or "").encode("idna"), parts.port
    except ValueError as cause:
        raise WeightsError(f"{url}: not an address: {cause}") from cause
    odd = next((c for c in address if not c.isascii() or not c.isprintable() or c == " "), None)
    if odd is not None and parts.scheme != "file":
        raise WeightsError(f"{url}: an address cannot have {odd!r}; write it as {quote(odd)}")
    given = [sha256.lower()] if sha256 is not None else []
    if fragment:
        key, _, value = fragment.partition("=")
        if key != "sha256":
            raise WeightsError(f"{url}: unknown fragment #{fragment}; known: #sha256=HEX")
        given.append(value.lower())
    for value in given:
        if SHA256.fullmatch(value) is None or value != given[0]:
            raise WeightsError(f"{url}: checksums {given}: must be one SHA-256 of 64 hexadecimal digits")
    return address, given[0] if given else None


def _file_path(address: str) -> Path:
    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise WeightsError(f"{address}: a file URL of another machine; use file:///path")
    return Path(unquote(parts.path))


def _cache_name(address: str) -> str:
    """Return a file name that is unique for the address and still readable."""
    base = re.sub(r"[^A-Za-z0-9._-]", "_", unquote(urlsplit(address).path).rsplit("/", 1)[-1])[-100:]
    return f"{hashlib.sha256(address.encode()).hexdigest()[:12]}-{base or 'weights'}"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _read_sha256(path: Path) -> str:
    """Read the first word of a checksum file, as `sha256sum` writes it."""
    try:
        with path.open("rb") as stream:
            word = stream.read(1024).decode("ascii", "replace").split(maxsplit=1)[:1]
    except OSError as cause:
        raise WeightsError(f"{path}: cannot be read: {cause.strerror}") from cause
    if not word or SHA256.fullmatch(word[0].lower()) is None:
        raise WeightsError(f"{path}: not a SHA-256 checksum; must start with 64 hexadecimal digits")
    return word[0].lower()


def _is_cached(target: Path, expected: str | None) -> bool:
    if not target.is_file():
        return False
    try:
        check_sha256(target, expected)
    except WeightsError as problem:
        logger.warning("the cached copy is not used: %s", problem)
        return False
    return True


def _accept(part: Path, target: Path, expected: str | None, address: str) -> None:
    """Move a complete download into place if its checksum is right; else remove it."""
    found = file_sha256(part)
    if expected is not None and found != expected:
        part.unlink()
        raise WeightsError(f"{address}: the SHA-256 of what came is {found}, must be {expected}; nothing of it is kept")
    with atomic_write(_beside(target, ".sha256"), "w", error=WeightsError) as handle:
        handle.write(f"{found}  {target.name}\n")
    part.replace(target)


class _Broken(Exception):
    """A transfer that stopped early and may go on."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to an unprotected address."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise WeightsError(f"{req.full_url}: redirected from https to {newurl}, which is not protected: refused")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


class _Download:
    """One file on its way: `part` holds what has come, a note beside it which version of the file that is of."""

    def __init__(self, address: str, part: Path, timeout_s: float) -> None:
        self.address = address
        self.part = part
        self._note = _beside(part, ".json")
        self._timeout_s = timeout_s
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler(),
            urllib.request.HTTPHandler(),
            urllib.request.HTTPSHandler(),
            urllib.request.HTTPDefaultErrorHandler(),
            urllib.request.HTTPErrorProcessor(),
            urllib.request.UnknownHandler(),
            _SafeRedirects(),
        ):
            self._opener.add_handler(handler)

    def run(self) -> None:
        """Bring the whole file to `part`."""
        problems: list[str] = []
        for attempt in range(ATTEMPTS):
            try:
                self._transfer()
            except _Broken as cause:
                logger.warning(
                    "%s: %s; %s", self.address, cause, "trying again" if attempt + 1 < ATTEMPTS else "giving up"
                )
                problems.append(str(cause))
                time.sleep(PAUSE_S * attempt)
            else:
                self._note.unlink(missing_ok=True)
                return
        told = "; ".join(dict.fromkeys(problems))
        raise WeightsError(f"{self.address}: gave up after {ATTEMPTS} attempts: {told}; {self._kept()}")

    def published_sha256(self) -> str | None:
        """Return the checksum in `URL.sha256`, None if the server has no such file."""
        try:
            with self._opener.open(f"{self.address}.sha256", timeout=self._timeout_s) as response:
                word = response.read(1024).decode("ascii", "replace").split(maxsplit=1)[:1]
        except urllib.error.HTTPError:
            return None
        except (OSError, HTTPException) as cause:
            logger.warning("%s.sha256 cannot be asked for, so the download is not checked: %s", self.address, cause)
            return None
        return word[0].lower() if word and SHA256.fullmatch(word[0].lower()) else None

    def _kept(self) -> str:
        size = self.part.stat().st_size if self.part.is_file() else 0
        return f"{size} bytes are kept, run again to go on from there" if size else "nothing has come"

    def _transfer(self) -> None:
        """Ask for what is missing and add it to `part`."""
        note = self._read_note()
        have = self.part.stat().st_size if note is not None and self.part.is_file() else 0
        try:
            with self._open(have, note) as response:
                have, total = self._begin(response, have, note)
                self._receive(response, have, total)
        except TimeoutError as cause:
            raise WeightsError(
                f"{self.address}: timed out: the server was silent for {self._timeout_s:g} s; {self._kept()}"
            ) from cause
        except (HTTPException, ConnectionError) as cause:
            raise _Broken(f"the connection broke ({cause!r})") from cause
        except OSError as cause:
            raise WeightsError(f"{self.address}: cannot be written to {self.part}: {cause}") from cause

    def _open(self, have: int, note: Mapping[str, Any] | None) -> HTTPResponse:
        headers = {"User-Agent": "slim_distill", "Accept-Encoding": "identity"}
        if have and note is not None:
            headers["Range"] = f"bytes={have}-"
            if note["version"] is not None:
                headers["If-Range"] = note["version"]
        try:
            return self._opener.open(urllib.request.Request(self.address, headers=headers), timeout=self._timeout_s)
        except urllib.error.HTTPError as cause:
            with cause:
                if cause.code == RANGE_NOT_SATISFIABLE:
                    self.part.unlink(missing_ok=True)
                    raise _Broken("what was kept of the last download does not belong to this file") from cause
                if cause.code in WORTH_RETRYING:
                    raise _Broken(f"the server answered {cause.code} {cause.reason}") from cause
                raise WeightsError(f"{self.address}: the server answered {cause.code} {cause.reason}") from cause
        except urllib.error.URLError as cause:
            if isinstance(cause.reason, TimeoutError):
                raise cause.reason from cause
            raise WeightsError(f"{self.address}: no connection: {cause.reason}") from cause

    def _begin(self, response: HTTPResponse, have: int, note: Mapping[str, Any] | None) -> tuple[int, int | None]:
        """Return (bytes kept, size of the whole file if the server says it) and prepare `part` to be added to."""
        if response.headers.get_content_type() == "text/html":
            raise WeightsError(f"{self.address}: the server answered with a web page instead of a file")
        length = response.headers.get("Content-Length", "")
        total = int(length) if length.isdigit() else None
        if response.status == 206:
            match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
            if match is None or note is None or int(match[1]) != have or note["total"] not in (None, int(match[2])):
                self.part.unlink(missing_ok=True)
                raise _Broken("the server continues another file than the one begun")
            return have, int(match[2])
        if total is not None and total > MAX_BYTES:
            raise WeightsError(f"{self.address}: {total} bytes; more than {MAX_BYTES} are not fetched")
        etag = response.headers.get("ETag", "")
        version = etag if etag.startswith('"') else response.headers.get("Last-Modified")
        self.part.write_bytes(b"")
        self._note.write_text(json.dumps({"version": version, "total": total}), encoding="utf-8")
        return 0, total

    def _read_note(self) -> dict[str, Any] | None:
        try:
            note = json.loads(self._note.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # No note, no resume: the download starts from its beginning.
            return None
        return note if isinstance(note, dict) and {"version", "total"} <= set(note) else None

    def _receive(self, response: HTTPResponse, have: int, total: int | None) -> None:
        bar = tqdm(
            desc=self.part.name.removesuffix(".part"),
            initial=have,
            total=total,
            unit="B",
            unit_scale=True,
            file=sys.stderr,
            mininterval=0.2 if sys.stderr.isatty() else 10.0,
        )
        deadline, due = time.monotonic() + self._timeout_s, have + MIN_BYTES_PER_TIMEOUT
        with bar, self.part.open("ab") as out:
            while piece := response.read1(PIECE):
                have += out.write(piece)
                bar.update(len(piece))
                if have > (MAX_BYTES if total is None else total):
                    raise WeightsError(f"{self.address}: more bytes came than the {total or MAX_BYTES} expected")
                if have >= due:
                    deadline, due = time.monotonic() + self._timeout_s, have + MIN_BYTES_PER_TIMEOUT
                elif time.monotonic() > deadline:
                    raise TimeoutError
        if total is not None and have < total:
            raise _Broken(f"the connection ended after {have} of {total} bytes")
