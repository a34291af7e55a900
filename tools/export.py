"""The same as `slim-distill export`; see --help."""

import sys

from slim_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
