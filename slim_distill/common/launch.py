"""What a launcher says of this process: its place among those that were started together. No Paddle here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from slim_distill.common.errors import ConfigError

__all__ = ["Launch", "launched"]


@dataclass(frozen=True)
class Launch:
    """Place of a process among those that train together.

    Attributes:
        rank: its number, from 0.
        ranks: how many there are.
        local_ranks: how many of them run on this machine.
        host: address of the machine that rank 0 runs on.
    """

    rank: int = 0
    ranks: int = 1
    local_ranks: int = 1
    host: str = "127.0.0.1"


def launched(environ: Mapping[str, str] = os.environ) -> Launch:
    """The place that `python -m paddle.distributed.launch` gave this process; alone where no launcher did.

    Raises:
        ConfigError: the launcher's variables contradict each other.
    """
    names = ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM", "PADDLE_LOCAL_SIZE")
    given = [environ.get(name, default) for name, default in zip(names, ("0", "1", "1"), strict=True)]
    if not all(text.isdigit() for text in given) or not 0 <= int(given[0]) < int(given[1]):
        shown = ", ".join(f"{name}={text}" for name, text in zip(names, given, strict=True))
        raise ConfigError(
            f"the environment does not describe a launch: {shown}; start with python -m paddle.distributed.launch, "
            "or unset these variables"
        )
    rank, ranks, local_ranks = (int(text) for text in given)
    host = environ.get("PADDLE_TRAINER_ENDPOINTS", "").split(",")[0].rpartition(":")[0]
    return Launch(rank, ranks, max(1, min(local_ranks, ranks)), host or Launch.host)
