"""Errors as they are shown: on one screen, whatever they quote."""

__all__ = ["SCREEN_CHARACTERS", "one_screen"]

SCREEN_CHARACTERS = 2000
"""Longest message; with the lines of a log before it, it fits a terminal of 25 lines of 120 columns."""
_LINES = 15


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
