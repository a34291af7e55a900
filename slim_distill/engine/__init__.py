"""Sessions, training programs, the loop and its hooks, checkpoints, evaluation; `build.py` composes them."""
