"""The same as `slim-distill infer`; see --help."""

import sys

from slim_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["infer", *sys.argv[1:]]))
