"""Keys about how a run is executed, not about what it computes."""

from dataclasses import dataclass

__all__ = ["CacheConfig", "CompileConfig", "ParallelConfig"]


@dataclass(frozen=True)
class CacheConfig:
    """Outputs of frozen teachers on disk, for images that come again: at most `max_gb` (10^9 bytes), 0 for none.

    `dir` is their folder; "" for `teacher_outputs` in the cache folder ($SLIM_DISTILL_CACHE).
    """

    max_gb: float = 0.0
    dir: str = ""


@dataclass(frozen=True)
class CompileConfig:
    """How the program of a step is made faster; on a CPU only where nothing else is said.

    Attributes:
        teacher: auto | off: fold and fuse the frozen part.
        placement: which kernels the rest runs on. auto: oneDNN for the convolutions that usually gain; stock: Paddle's
            own for everything; onednn: oneDNN for all convolutions; measure: for each convolution the one that is
            faster on this machine, which is found out once.
        teacher_precision: float32 | bfloat16 | float16: in what the convolutions of frozen teachers are computed. On a
            CPU bfloat16 only, and only where it has the instructions. On any device.
        student_precision: float32 | bfloat16: in what the convolutions, and the products with parameters, of all that
            trains are computed, backward pass included. Not on a CPU.
        kernels: auto | off: kernels of our own for norms, depthwise convolutions and updates, compiled once for this
            machine, with `placement` auto and measure.
        overlap: auto | off: frozen teachers work on the next batch in the gaps of this step, in a thread of their own,
            if the first 60 steps show that this is faster.
        cache: of what the losses read of frozen teachers. On any device.
    """

    teacher: str = "auto"
    teacher_precision: str = "float32"
    student_precision: str = "float32"
    placement: str = "auto"
    kernels: str = "auto"
    overlap: str = "auto"
    cache: CacheConfig = CacheConfig()


@dataclass(frozen=True)
class ParallelConfig:
    """Training on several devices, and batches larger than fit on one; docs/scaling.md.

    Attributes:
        accumulate: so many batches of `data.train.batch_size` a device make one step: the update is that of one batch
            of all of them. All that is counted in steps counts updates.
        bucket_mb: gradients are exchanged in buckets of this size in MiB; 0 for each by itself.
        timeout_s: a process that dies, hangs or says nothing for so many seconds stops all others. Must be longer
            than the slowest step.
        drift_every: compare parameters and optimizer state of all processes every so many steps; 0 for never.
    """

    accumulate: int = 1
    bucket_mb: float = 16.0
    timeout_s: float = 60.0
    drift_every: int = 500
