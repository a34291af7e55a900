"""Channel-wise distillation."""

import paddle

from slim_distill.losses._common import Tensor, check_positive, from_student, from_teacher
from slim_distill.losses._logits import kl_divergence, log_probabilities

__all__ = ["cwd"]


def cwd(student: Tensor, teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Divergence of where each channel is active: every channel map as a distribution over positions.

    Formula: p = softmax over the H W positions of x / T; L = T^2 / (N C) sum_nc KL(p_t || p_s)
    Attaches: feature maps, or dense logits, of equal shape.
    Shapes: [N, C, H, W] both.
    Args:
        temperature: T; 4 for segmentation logits and 1 for detectors in the literature.
    Reduction: sum over positions, mean over batch and channels: does not grow with the image.
    Gradient: to the student only, none along a shift of a whole channel.
    Source: Shu et al. 2021, https://arxiv.org/abs/2011.13256 (weights 3 for logits, 5 to 50 for features).
    Differences: PaddleDetection leaves out T^2 and adds 1e-5 inside the logarithms, which is of the size of 1 / (H W).
    """
    check_positive("cwd", temperature=temperature)
    log_s, log_t = (
        log_probabilities(paddle.flatten(x, 2), temperature) for x in (from_student(student), from_teacher(teacher))
    )
    return kl_divergence(log_t, log_s).mean() * temperature**2
