"""Rewrites of programs, one per file."""

from slim_distill.graph.passes.freeze import Freeze
from slim_distill.graph.passes.infra import Pass, PassResult, run_passes
from slim_distill.graph.passes.merge import merge, merge_into
from slim_distill.graph.passes.slice import Slice

__all__ = ["Freeze", "Pass", "PassResult", "Slice", "merge", "merge_into", "run_passes"]
