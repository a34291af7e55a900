"""Rewrites of programs, one per file."""

from slim_distill.graph.passes.all_reduce import PREFIX, SHARE, AllReduce, broadcast, is_reduced, piece
from slim_distill.graph.passes.cheap_broadcasts import cheap_broadcasts
from slim_distill.graph.passes.feed import Feed
from slim_distill.graph.passes.fold_batch_norm import FoldBatchNorm
from slim_distill.graph.passes.freeze import Freeze
from slim_distill.graph.passes.fuse_inference import FuseInference
from slim_distill.graph.passes.fuse_norms import FuseNorms
from slim_distill.graph.passes.infra import Pass, PassResult, run_passes
from slim_distill.graph.passes.merge import merge, merge_into
from slim_distill.graph.passes.own_kernels import OwnKernels
from slim_distill.graph.passes.place_kernels import PlaceKernels
from slim_distill.graph.passes.reduce_precision import ReducePrecision
from slim_distill.graph.passes.slice import Slice
from slim_distill.graph.passes.split_gradients import SplitGradients
from slim_distill.graph.passes.update_early import UpdateEarly
from slim_distill.graph.passes.winograd import Winograd

__all__ = [
    "PREFIX",
    "SHARE",
    "AllReduce",
    "Feed",
    "FoldBatchNorm",
    "Freeze",
    "FuseInference",
    "FuseNorms",
    "OwnKernels",
    "Pass",
    "PassResult",
    "PlaceKernels",
    "ReducePrecision",
    "Slice",
    "SplitGradients",
    "UpdateEarly",
    "Winograd",
    "broadcast",
    "cheap_broadcasts",
    "is_reduced",
    "merge",
    "merge_into",
    "piece",
    "run_passes",
]
