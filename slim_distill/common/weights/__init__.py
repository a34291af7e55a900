"""Files of parameters: every format users have, read and written without Paddle and without executing anything."""

from slim_distill.common.weights.match import MatchReport, match_weights
from slim_distill.common.weights.read import read_weights
from slim_distill.common.weights.write import FORMATS, write_weights

__all__ = ["FORMATS", "MatchReport", "match_weights", "read_weights", "write_weights"]
