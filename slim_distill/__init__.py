"""Knowledge distillation by rewriting PaddlePaddle programs.

Importing this package starts nothing: no Paddle import, no static mode, no seed, no thread. The public
functions live in the sub-packages; see docs/api.md.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"
