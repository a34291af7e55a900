"""The same as `slim-distill distill`; see --help."""

import sys

from slim_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["distill", *sys.argv[1:]]))
