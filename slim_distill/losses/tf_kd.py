"""Teacher-free knowledge distillation by regularisation."""

from typing import Literal

from slim_distill.common.errors import LossError
from slim_distill.losses._common import Tensor, check_choice, check_positive, from_student
from slim_distill.losses._logits import class_count, kl_divergence, label_mask, log_probabilities

__all__ = ["tf_kd"]


def tf_kd(
    student: Tensor,
    *,
    labels: Tensor,
    correct: float = 0.99,
    temperature: float = 20.0,
    convention: Literal["paper", "reference"] = "paper",
) -> Tensor:
    """Divergence from a teacher made by hand: sure of the label, equally unsure of every other class.

    Formula: u_c = correct where c = y, (1 - correct) / (C - 1) elsewhere; q = softmax(u / T);
        L = mean_n KL(q || softmax(z_s)), divided by C by convention "reference"
    Attaches: class logits of a softmax classifier. There is no teacher network.
    Shapes: student [N, ..., C], raw logits; labels [N, ...] or [N, ..., 1].
    Args:
        labels: class numbers.
        correct: probability that the made-up teacher gives to the label, above 1 / C and below 1.
        temperature: T of the made-up teacher; the student's distribution is taken at temperature 1.
        convention: "paper" sums over classes; "reference" also divides by C, as the authors' code does (`KLDivLoss()`).
    Reduction: sum over classes (or mean, see convention), mean over everything else.
    Gradient: to the student.
    Minimum: 0, where the student's distribution is the made-up teacher's.
    Source: Yuan et al. 2020, https://arxiv.org/abs/1909.11723.
    Differences: the cross entropy with the labels, weight 1 - alpha in the paper, is the task's own loss.
    """
    check_positive("tf_kd", temperature=temperature)
    check_choice("tf_kd", "convention", convention, ("paper", "reference"))
    student = from_student(student)
    classes = class_count("tf_kd", student)
    if not 1 / classes < correct < 1:
        raise LossError(
            f"tf_kd: correct must be above 1 / {classes} (one of {classes} classes) and below 1, got {correct}"
        )
    mask = label_mask("tf_kd", student, labels)
    made_up = mask * correct + (1 - mask) * ((1 - correct) / (classes - 1))
    loss = kl_divergence(log_probabilities(made_up, temperature), log_probabilities(student)).mean()
    return loss / classes if convention == "reference" else loss
