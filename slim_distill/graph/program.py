"""`NamedProgram`: one program and everything in it that can be addressed by name."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from slim_distill.common.errors import GraphError, VariableNotFoundError
from slim_distill.common.names import nearest
from slim_distill.graph import _pir

__all__ = ["NamedProgram", "dtype_of", "shape_of"]

_RANDOM = frozenset({
    "bernoulli", "binomial", "dirichlet", "dropout", "exponential", "fused_dropout_add", "gaussian", "gaussian_inplace",
    "multinomial", "poisson", "randint", "randperm", "rrelu", "standard_gamma", "top_p_sampling",
    "truncated_gaussian_random", "uniform", "uniform_inplace",
})  # fmt: skip


def shape_of(value: _pir.Value) -> tuple[int, ...]:
    """Shape of a variable, -1 for a dynamic axis; () for what is no dense tensor."""
    return tuple(value.shape) if value.is_dense_tensor_type() else ()


def dtype_of(value: _pir.Value) -> str:
    """NumPy's name of a variable's number type; "list" for what is no dense tensor."""
    return str(value.dtype).rsplit(".", maxsplit=1)[-1].lower() if value.is_dense_tensor_type() else "list"


@dataclass(frozen=True)
class NamedProgram:
    """A program of Paddle's IR with a name for every value.

    The record is frozen and passes return a new one, but the programs in it are Paddle's mutable objects: change
    them only through passes.

    Attributes:
        main: the program itself.
        startup: the program that gives parameters their first values.
        feeds: name -> value of every input.
        variables: canonical name -> value, parameters and feeds included.
        aliases: other name -> canonical name.
        values: parameter name -> array, for parameters whose value is known; the session puts these in place of
            what `startup` computes. Rewrites that fold parameters together need them.
        prefix: put before all names when this program was merged as a guest; "" otherwise.
        frozen: True when no parameter trains and all normalisation and dropout is in test mode.
        guests: prefix -> frozen, for every program merged into this one.
        info: facts about the model (`num_classes`, ...), handed on from its ModelSpec.
    """

    main: _pir.Program
    startup: _pir.Program
    feeds: Mapping[str, _pir.Value]
    variables: Mapping[str, _pir.Value]
    aliases: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, np.ndarray] = field(default_factory=dict)
    prefix: str = ""
    frozen: bool = False
    guests: Mapping[str, bool] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def canonical(self, name: str) -> str:
        """The canonical name behind `name`, which may be an alias.

        Raises:
            VariableNotFoundError: there is no such name; the message shows the nearest ones with their shapes.
        """
        if name in self.variables:
            return name
        if name in self.aliases:
            return self.aliases[name]
        near = nearest(name, [*self.variables, *self.aliases])
        shown = ", ".join(f"{n} {list(shape_of(self[n]))}" for n in near)
        hint = f"nearest: {shown} (did you mean {near[0]!r}?)" if near else "no name is near; list them with list_vars"
        raise VariableNotFoundError(f"no variable {name!r} in the program ({len(self.variables)} variables); {hint}")

    def __getitem__(self, name: str) -> _pir.Value:
        """The value behind a name or an alias; raises VariableNotFoundError."""
        return self.variables[self.canonical(name)]

    def __contains__(self, name: object) -> bool:
        return name in self.variables or name in self.aliases

    def parameters(self) -> dict[str, _pir.Value]:
        """{name: value} of all parameters, running statistics and optimizer state included."""
        return _pir.parameters(self.main)

    def parameter_shapes(self) -> dict[str, tuple[int, ...]]:
        """{name: shape} of all parameters: plain data, which may outlive the program."""
        return {name: shape_of(value) for name, value in self.parameters().items()}

    def trainable(self) -> dict[str, _pir.Value]:
        """{name: value} of the parameters that an optimizer may move."""
        return {name: v for name, v in self.parameters().items() if v.trainable and not v.stop_gradient}

    def states(self) -> dict[str, _pir.Value]:
        """{name: value} of what an optimizer keeps from step to step: learning rate, momentum and the like."""
        return _pir.states(self.main)

    def has_control_flow(self) -> bool:
        """Whether an operator holds blocks of its own, as branches and loops do."""
        return any(op.num_regions() for op in _pir.ops(self.main))

    def draws_random_numbers(self) -> bool:
        """Whether a result may change from run to run; what is in test mode (`is_test`) draws nothing."""
        return any(
            op.name().removeprefix("pd_op.").removesuffix("_") in _RANDOM
            and not (op.has_attr("is_test") and op.attrs()["is_test"])
            for op in _pir.walk(self.main)
        )

    def with_values(self, arrays: Mapping[str, np.ndarray]) -> "NamedProgram":
        """The same program with known values for some parameters.

        Raises:
            GraphError: an array has no parameter of that name, or another shape.
        """
        known = self.parameters()
        for name, array in arrays.items():
            if name not in known:
                near = nearest(name, known)
                raise GraphError(f"no parameter {name!r} in the program; nearest: {', '.join(near) or 'none'}")
            if tuple(array.shape) != shape_of(known[name]):
                raise GraphError(
                    f"parameter {name!r} has shape {list(shape_of(known[name]))}, the given array {list(array.shape)}"
                )
        return replace(self, values={**self.values, **arrays})

    def clone(self) -> "NamedProgram":
        """A copy whose programs can be edited without touching this one."""
        main, look_up = _pir.clone_program(self.main)
        startup, _ = _pir.clone_program(self.startup)
        return replace(
            self,
            main=main,
            startup=startup,
            feeds=_pir.remap(self.feeds, look_up),
            variables=_pir.remap(self.variables, look_up),
        )

    def without(self, names: Iterable[str]) -> "NamedProgram":
        """The same program with some canonical names, and the aliases of these, taken from the tables."""
        gone = set(names)
        return replace(
            self,
            feeds={n: v for n, v in self.feeds.items() if n not in gone},
            variables={n: v for n, v in self.variables.items() if n not in gone},
            aliases={a: n for a, n in self.aliases.items() if n not in gone},
            values={n: v for n, v in self.values.items() if n not in gone},
        )
