"""The same as `slim-distill eval`; see --help."""

import sys

from slim_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", *sys.argv[1:]]))
