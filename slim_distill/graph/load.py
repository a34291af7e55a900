"""Exported inference models of Paddle 1.x and 2.x as named programs, under their old names."""

from pathlib import Path

from paddle import static

from slim_distill.common.errors import GraphError
from slim_distill.common.names import nearest
from slim_distill.common.weights import read_weights
from slim_distill.graph import _pir
from slim_distill.graph.naming import name_values
from slim_distill.graph.program import NamedProgram, shape_of

__all__ = ["load_inference_program"]

PROGRAM = "__model__"
LARGEST = 256 << 20  # bytes of a program file that are believable


def load_inference_program(path: str | Path, weights: str | Path | None = None) -> NamedProgram:
    """Read an inference model: its program, and its parameters as the known `values`.

    Every variable keeps the name that it had, so that it can be fetched or distilled from: `conv2d_20.tmp_1`.
    `info["outputs"]` are the names of what the model returned, in order.

    Args:
        path: a folder with `__model__`, or a `.pdmodel` file.
        weights: where the parameters are, as for `read_weights`; by default beside the program: one file for each
            variable or `__params__` in the folder, `.pdiparams` beside `.pdmodel`.

    Raises:
        GraphError: there is no program, it is none, or Paddle cannot translate it.
        WeightsError: the weights cannot be read, or a parameter of the program is missing or of another shape.
    """
    source = Path(path)
    file = source / PROGRAM if source.is_dir() else source
    if not file.is_file():
        raise GraphError(f"{path}: no inference program; a folder with {PROGRAM}, or a .pdmodel file, is wanted")
    if not 0 < file.stat().st_size <= LARGEST:
        raise GraphError(f"{file}: {file.stat().st_size} bytes cannot be a program; 1 to {LARGEST} are expected")
    try:
        program, table, outputs = _pir.translate(file.read_bytes())
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
        raise GraphError(f"{file}: Paddle cannot read or translate this program: {reason}") from error
    own = {op.result(0).id for op in _pir.ops(program) if op.name() in ("builtin.parameter", *_pir.DATA_OPS)}
    variables, aliases = name_values(program, {name: v for name, v in table.items() if v.id not in own})
    feeds = {name: variables[name] for op in _pir.ops(program) if (name := _pir.data_name(op)) is not None}
    named = NamedProgram(
        main=program,
        startup=static.Program(),
        feeds=feeds,
        variables=variables,
        aliases=aliases,
        info={"outputs": tuple(outputs)},
    )
    arrays = read_weights(weights if weights is not None else (source if source.is_dir() else file.with_suffix("")))
    known = named.parameters()
    missing = [name for name in known if name not in arrays]
    if missing:
        near = ", ".join(nearest(missing[0], arrays)) or "none"
        raise GraphError(
            f"{path}: the weights lack {len(missing)} of {len(known)} parameters: {', '.join(missing[:3])}; "
            f"nearest: {near}"
        )
    return named.with_values({name: arrays[name].reshape(shape_of(value)) for name, value in known.items()})
