"""Names of the variables of one network, recorded while it is built."""

from collections import Counter
from typing import Any, TypeAlias

from slim_distill.common.errors import GraphError

__all__ = ["Names", "Value"]

# A variable of a program: Paddle gives the class no public name that type checkers know.
Value: TypeAlias = Any


class Names:
    """Collects up to three kinds of names for each variable; the first kind present is the canonical one.

    1. Roles: what a variable is for, such as `backbone.c3`, `yolo_head.0`, `loss`.
    2. Layers: `NAME.tmp_0`, `NAME.tmp_1`, ... after the parameters `NAME.weights` or `NAME_scale` of the layer.
    3. Legacy: what Paddle 1.x called the variable, so that scripts written for it find it. There a layer without
       a name of its own is called after its kind and a count for each kind: the third convolution is `conv2d_2`,
       its result `conv2d_2.tmp_0`, and after the bias `conv2d_2.tmp_1`.
    """

    def __init__(self) -> None:
        self._roles: dict[str, Value] = {}
        self._layers: dict[str, Value] = {}
        self._legacy: dict[str, Value] = {}
        self._kinds: Counter[str] = Counter()
        self._outputs: Counter[str] = Counter()

    def role(self, name: str, value: Value) -> Value:
        """Record what `value` is for, and return it."""
        return self._add(self._roles, name, value)

    def layer(self, parameter: str, value: Value) -> Value:
        """Record the next result of the layer that owns `parameter`, and return it."""
        separator = "." if "." in parameter else "_"
        name = parameter.rsplit(separator, 1)[0]
        number = self._outputs[name]
        self._outputs[name] += 1
        return self._add(self._layers, f"{name}.tmp_{number}", value)

    def legacy_layer(self, kind: str) -> str:
        """Return the legacy name of the next layer of a kind: `conv2d_0`, `conv2d_1`, ..."""
        number = self._kinds[kind]
        self._kinds[kind] += 1
        return f"{kind}_{number}"

    def legacy(self, name: str, value: Value) -> Value:
        """Record the legacy name of `value`, and return it."""
        return self._add(self._legacy, name, value)

    def unnamed(self, kind: str, value: Value) -> Value:
        """Record the only result of the next layer of a kind under its legacy name, and return it."""
        return self.legacy(f"{self.legacy_layer(kind)}.tmp_0", value)

    def table(self) -> dict[str, Value]:
        """Return {name: variable}, the canonical name of each variable before its aliases."""
        return {**self._roles, **self._layers, **self._legacy}

    def _add(self, table: dict[str, Value], name: str, value: Value) -> Value:
        known = [t[name] for t in (self._roles, self._layers, self._legacy) if name in t]
        if any(not other.is_same(value) for other in known):
            raise GraphError(f"the name {name!r} is given to two variables of one network; rename one of its layers")
        table[name] = value
        return value
