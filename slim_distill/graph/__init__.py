"""Programs of Paddle's IR with named variables, and the rewrites on them."""

from slim_distill.graph._pir import parameters
from slim_distill.graph.convolutions import ConvolutionLayer, convolution_layers
from slim_distill.graph.cost import BACKWARD, FORWARD, PHASES, UPDATE, OpCost, count_operators, operator_costs, runs_as
from slim_distill.graph.gradients import Gradients, gradients, norms, student_parameters
from slim_distill.graph.kernels import load_kernels
from slim_distill.graph.load import load_inference_program
from slim_distill.graph.naming import layer_name, name_values
from slim_distill.graph.passes import (
    SHARE,
    AllReduce,
    Feed,
    FoldBatchNorm,
    Freeze,
    FuseInference,
    FuseNorms,
    OwnKernels,
    Pass,
    PassResult,
    PlaceKernels,
    Slice,
    SplitGradients,
    UpdateEarly,
    Winograd,
    broadcast,
    cheap_broadcasts,
    is_reduced,
    merge,
    merge_into,
    piece,
    run_passes,
)
from slim_distill.graph.program import NamedProgram, dtype_of, shape_of
from slim_distill.graph.readers import readers
from slim_distill.graph.trace import name_program, trace

__all__ = [
    "BACKWARD",
    "FORWARD",
    "PHASES",
    "SHARE",
    "UPDATE",
    "AllReduce",
    "ConvolutionLayer",
    "Feed",
    "FoldBatchNorm",
    "Freeze",
    "FuseInference",
    "FuseNorms",
    "Gradients",
    "NamedProgram",
    "OpCost",
    "OwnKernels",
    "Pass",
    "PassResult",
    "PlaceKernels",
    "Slice",
    "SplitGradients",
    "UpdateEarly",
    "Winograd",
    "broadcast",
    "cheap_broadcasts",
    "convolution_layers",
    "count_operators",
    "dtype_of",
    "gradients",
    "is_reduced",
    "layer_name",
    "load_inference_program",
    "load_kernels",
    "merge",
    "merge_into",
    "name_program",
    "name_values",
    "norms",
    "operator_costs",
    "parameters",
    "piece",
    "readers",
    "run_passes",
    "runs_as",
    "shape_of",
    "student_parameters",
    "trace",
]
