"""Errors that users see. Every message says what was asked, what was found, and what would be right."""

__all__ = [
    "INTERRUPTED_EXIT",
    "PREEMPTED_EXIT",
    "ConfigError",
    "DataError",
    "GraphError",
    "LossError",
    "Preempted",
    "SlimDistillError",
    "TrainingError",
    "VariableNotFoundError",
    "WeightsError",
]


PREEMPTED_EXIT = 75
"""Exit code of a run that was stopped by a signal and has saved: EX_TEMPFAIL of sysexits.h, "try again later"."""

INTERRUPTED_EXIT = 130
"""Exit code of what Ctrl-C ended at once: 128 + SIGINT, as shells have it."""


class SlimDistillError(Exception):
    """Base of every error raised on purpose; command-line tools print it without a traceback."""


class ConfigError(SlimDistillError):
    """A configuration file, key, value or override is wrong. Messages start with the dotted path of the key."""


class DataError(SlimDistillError):
    """A data set, annotation or image is missing or wrong. Messages start with the file."""


class GraphError(SlimDistillError):
    """A program cannot be traced, named, merged or rewritten as asked."""


class VariableNotFoundError(GraphError):
    """A variable name does not exist in a program; the message shows the nearest names with their shapes."""


class LossError(SlimDistillError):
    """A loss term cannot be bound: unknown loss or argument, or variables whose shapes do not fit."""


class TrainingError(SlimDistillError):
    """Training cannot start or go on: non-finite loss, missing gradient, useless teacher."""


class WeightsError(SlimDistillError):
    """A weights file is missing, damaged, hostile, or of another architecture."""


class Preempted(SlimDistillError):
    """Nothing went wrong: the run was asked to stop and has saved; commands end with `PREEMPTED_EXIT`."""
