"""The same as `slim-distill status`; see --help."""

import sys

from slim_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["status", *sys.argv[1:]]))
