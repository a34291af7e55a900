"""The same as `slim-distill compare`; see --help."""

import sys

from slim_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["compare", *sys.argv[1:]]))
