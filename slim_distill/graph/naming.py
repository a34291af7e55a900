"""Names for every value of a program: deterministic, unique, stable when an unrelated branch is added.

The rules, in order:
1. the name that the model function gave, or that the value had in an imported legacy program;
2. else from the parameter of its layer: next to `yolo_output.0.conv.weights` come `yolo_output.0.conv.tmp_0` and,
   after the bias, `yolo_output.0.conv.tmp_1`;
3. else by operator and count in program order: `strided_slice_3.tmp_0`.
Further results of one operator are called `NAME@1`, `NAME@2`, ...
"""

from collections import Counter
from collections.abc import Mapping

from slim_distill.common.errors import GraphError
from slim_distill.graph import _pir

__all__ = ["layer_name", "name_values"]

# Operators that only pass a parameter on to its layer (a bias reshaped for broadcasting).
_PASSES_PARAMETER = ("pd_op.reshape", "pd_op.cast")


def layer_name(parameter: str) -> str:
    """Name of the layer that owns a parameter: what stands before its last '.', or else before its last '_'."""
    if "." in parameter:
        return parameter.rsplit(".", 1)[0]
    return parameter.rsplit("_", 1)[0]


def _owning_layer(op: _pir.Operation) -> str | None:
    if op.name() in _PASSES_PARAMETER:
        return None
    for value in _pir.operands(op):
        source = value
        producer = value.get_defining_op()
        if producer is not None and producer.name() in _PASSES_PARAMETER and producer.num_operands():
            source = producer.operand_source(0)
        parameter = _pir.parameter_name(source)
        if parameter is not None:
            return layer_name(parameter)
    return None


def _given_by_id(given: Mapping[str, _pir.Value]) -> tuple[dict[str, str], dict[str, str]]:
    """-> ({value id: canonical name}, {alias: canonical name})."""
    canonical: dict[str, str] = {}
    aliases: dict[str, str] = {}
    for name, value in given.items():
        if value.id in canonical:
            aliases[name] = canonical[value.id]
        else:
            canonical[value.id] = name
    return canonical, aliases


def name_values(
    program: _pir.Program, given: Mapping[str, _pir.Value] | None = None
) -> tuple[dict[str, _pir.Value], dict[str, str]]:
    """Name every value of `program` and store the names on its operators.

    Operators that carry a stored name already keep it, so names survive cutting and cloning.

    Args:
        program: the program; only `struct_name` attributes are changed.
        given: names by rule 1. Several names for one value: the first is canonical, the others are aliases. A feed
            or parameter keeps its own name, and names given to it are aliases.

    Returns:
        ({canonical name: value}, {alias: canonical name}). Values inside control-flow blocks have no names: they
        cannot be fetched or read from outside their block.

    Raises:
        GraphError: one name is given to two values, or is the name of a parameter or feed of another value.
    """
    canonical, aliases = _given_by_id(given or {})
    all_ops = _pir.ops(program)
    tags = {tag for tag in map(_pir.op_tag, all_ops) if tag is not None}
    generated = _GeneratedNames({*canonical.values(), *aliases, *tags})
    names: dict[str, _pir.Value] = {}
    for op in all_ops:
        own = _own_name(op)
        base = own if own is not None else _pir.op_tag(op)
        for i, value in enumerate(op.results()):
            if not value.initialized():
                continue
            given_name = canonical.get(value.id)
            if base is None:
                layer = generated.layer(op)
                base = given_name if given_name is not None and i == 0 else generated.fresh(layer)
                _pir.set_op_tag(op, base)
            name = base if i == 0 else f"{base}@{i}"
            if name in names:
                raise GraphError(f"the name {name!r} stands for two variables; give each variable a name of its own")
            names[name] = value
            if given_name is not None and given_name != name:
                # A name given to a further result, or to a value that has a name already, is an alias.
                aliases[given_name] = name
    return names, {alias: _resolve(alias, aliases) for alias in aliases if alias not in names}


class _GeneratedNames:
    """Names by rules 2 and 3 that are not taken by others."""

    def __init__(self, taken: set[str]) -> None:
        self.taken = taken
        self.next_free: Counter[str] = Counter()
        self.op_count: Counter[str] = Counter()

    def layer(self, op: _pir.Operation) -> str:
        """The layer whose parameter an operator reads, or else the operator's kind and count."""
        layer = _owning_layer(op)
        if layer is not None:
            return layer
        kind = op.name().split(".")[-1].rstrip("_")
        self.op_count[kind] += 1
        return f"{kind}_{self.op_count[kind] - 1}"

    def fresh(self, layer: str) -> str:
        """The layer's next free `.tmp_N`."""
        while True:
            name = f"{layer}.tmp_{self.next_free[layer]}"
            self.next_free[layer] += 1
            if name not in self.taken:
                return name


def _own_name(op: _pir.Operation) -> str | None:
    """The name that a feed or parameter has by itself."""
    return op.str_attr("parameter_name") if op.name() == "builtin.parameter" else _pir.data_name(op)


def _resolve(alias: str, aliases: Mapping[str, str]) -> str:
    name = alias
    while name in aliases:
        name = aliases[name]
    return name
