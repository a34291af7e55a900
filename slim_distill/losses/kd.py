"""Knowledge distillation of class logits."""

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_not_negative, check_positive, from_student, from_teacher
from slim_distill.losses._logits import cross_entropy, kl_divergence, log_probabilities

__all__ = ["kd"]


def kd(
    student: Tensor, teacher: Tensor, *, temperature: float = 4.0, alpha: float = 1.0, labels: Tensor | None = None
) -> Tensor:
    """Kullback-Leibler divergence of softened class distributions, and optionally the cross entropy with labels.

    Formula: p = softmax(z / T); L = alpha T^2 mean_n KL(p_t || p_s) + (1 - alpha) mean_n CE(z_s, y)
    Attaches: class logits of a softmax classifier, classes along the last axis. Not for sigmoid heads: kd_bernoulli.
    Shapes: student and teacher [N, ..., C], raw logits; labels [N, ...] or [N, ..., 1], class numbers.
    Args:
        temperature: T, the same for both; the gradient's size does not depend on it, thanks to T^2.
        alpha: share of the distillation part, 0 to 1.
        labels: class numbers, needed when alpha is below 1.
    Reduction: sum over classes, mean over everything else ("batchmean" of [N, C]).
    Gradient: to the student only.
    Minimum: 0 at student = teacher for alpha 1.
    Source: Hinton et al. 2015, https://arxiv.org/abs/1503.02531.
    Differences: ModelOpt and mmdet average over classes too, C times smaller; torchdistill's alpha weighs the labels.
    """
    check_positive("kd", temperature=temperature)
    check_not_negative("kd", alpha=alpha)
    if alpha > 1 or (alpha < 1 and labels is None):
        found = "no labels" if labels is None else "labels"
        raise LossError(f"kd: alpha must be at most 1, and labels are needed below 1; got alpha {alpha} and {found}")
    student = from_student(student)
    log_s, log_t = (log_probabilities(z, temperature) for z in (student, from_teacher(teacher)))
    loss = kl_divergence(log_t, log_s).mean() * (alpha * temperature**2)
    if alpha < 1 and labels is not None:
        loss = loss + cross_entropy(student, labels).mean() * (1 - alpha)
    return loss
