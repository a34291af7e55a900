"""Errors as they are shown: on one screen, whatever they quote."""

import errno

__all__ = ["SCREEN_CHARACTERS", "one_screen", "system_error"]

SCREEN_CHARACTERS = 2000
"""Longest message; with the lines of a log before it, it fits a terminal of 25 lines of 120 columns."""
_LINES = 15
_HINTS = {
    errno.ENOSPC: "the disk is full; make room, or write elsewhere",
    errno.EDQUOT: "your quota of the disk is used up; make room, or write elsewhere",
    errno.EROFS: "write elsewhere",
    errno.EACCES: "check its owner and permissions",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower data.*.workers",
    errno.ENOMEM: "lower data.*.batch_size or data.*.workers",
}


def one_screen(message: str) -> str:
    """Return a message with control characters spelt out, and the middle of a very long one left out."""
    lines = ["".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
             for line in message.splitlines()]  # fmt: skip
    if len(lines) > _LINES:
        left_out = f"... ({len(lines) - _LINES} lines left out) ..."
        lines = [*lines[: _LINES // 2], left_out, *lines[-(_LINES - _LINES // 2) :]]
    text = "\n".join(lines)
    if len(text) <= SCREEN_CHARACTERS:
        return text
    # The end says what is wrong, the beginning where.
    head, tail = text[: SCREEN_CHARACTERS // 3], text[-2 * SCREEN_CHARACTERS // 3 :]
    return f"{head} ... ({len(text) - len(head) - len(tail)} characters left out) ... {tail}"


def system_error(error: OSError | MemoryError) -> str:
    """Say what the operating system refused, of which file, and what would help."""
    if isinstance(error, MemoryError):
        return f"out of memory: {str(error) or 'an array could not be made'}; {_HINTS[errno.ENOMEM]}"
    reason = error.strerror or str(error) or type(error).__name__
    files = [str(file) for file in (error.filename, error.filename2) if file is not None]
    hint = _HINTS.get(error.errno or 0)
    if error.errno == errno.ENOENT and not files:
        hint = "is the folder that you are in still there?"
    return "; ".join([": ".join([*files, reason]), *([hint] if hint else [])])
