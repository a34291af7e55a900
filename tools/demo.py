"""The same as `slim-distill demo`; see --help."""

import sys

from slim_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["demo", *sys.argv[1:]]))
