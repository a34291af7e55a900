"""slim-distill convert-weights: any format that is read into any that is written. Nothing in the input is executed."""

import argparse
from pathlib import Path

from slim_distill.common.errors import WeightsError
from slim_distill.common.weights import FORMATS, read_weights, write_weights

__all__ = ["add_arguments", "run"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the command."""
    parser.epilog = (
        "IN may be: a URL (http, https, file; #sha256=HEX at its end is checked); a .tar, .tar.gz or .zip; "
        "a folder of one file per variable, an inference model or a checkpoint; .pdparams; .pdiparams or another "
        "combined file with its program or order.txt beside it; .safetensors; a path prefix as given to Paddle 1.x."
    )
    parser.add_argument("source", metavar="IN", help="file, folder, path prefix or URL to read")
    parser.add_argument("target", metavar="OUT", help="file or folder to write; an existing one is replaced")
    parser.add_argument("--format", choices=FORMATS, help="format of OUT; default: by its suffix, a folder without one")
    parser.add_argument("--sha256", help="checksum of IN, 64 hexadecimal digits; default: SOURCE.sha256 if it is there")
    parser.add_argument("--names", metavar="FILE", help="names in a combined file, one a line, in file order")
    parser.add_argument(
        "--cache-dir", help="where downloads go; default: $SLIM_DISTILL_CACHE or ~/.cache/slim_distill/weights"
    )


def run(args: argparse.Namespace) -> int:
    """Read IN, write OUT, say what was done."""
    names = _lines(Path(args.names)) if args.names is not None else None
    arrays = read_weights(args.source, sha256=args.sha256, cache_dir=args.cache_dir, names=names)
    if not arrays:
        raise WeightsError(f"{args.source}: holds no arrays")
    write_weights(args.target, arrays, args.format)
    size = sum(array.nbytes for array in arrays.values())
    print(f"{args.target}: {len(arrays)} arrays, {size / 1e6:.1f} MB")
    return 0


def _lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise WeightsError(f"--names: {path} cannot be read ({error})") from error
    return [line.strip() for line in text.splitlines() if line.strip()]
