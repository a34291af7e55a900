"""The same as `slim-distill list-vars`; see --help."""

import sys

from slim_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["list-vars", *sys.argv[1:]]))
