"""The questions, most important first. Each file declares one and does nothing else."""

from __future__ import annotations

from experiments.questions import (
    box_loss,
    class_loss,
    finetuning,
    focal,
    images,
    ladder,
    metrics,
    small_objects,
    suppression,
    weights,
)
from experiments.setting import Question

QUESTIONS: dict[str, Question] = {
    module.QUESTION.name: module.QUESTION
    for module in (
        ladder,
        class_loss,
        focal,
        box_loss,
        weights,
        small_objects,
        images,
        suppression,
        metrics,
        finetuning,
    )
}
