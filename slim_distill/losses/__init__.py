"""Distillation losses: pure functions of tensors and numbers in one table, and the binding of a recipe's terms."""

from slim_distill.losses.layers import Layers
from slim_distill.losses.table import GROUPS, LOSSES
from slim_distill.losses.terms import BoundTerm, Term, bind, bind_all

__all__ = ["GROUPS", "LOSSES", "BoundTerm", "Layers", "Term", "bind", "bind_all"]
