"""`python -m slim_distill COMMAND` is the same as `slim-distill COMMAND`."""

import sys

from slim_distill.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main())
