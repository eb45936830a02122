from experiments.recipes import D2L
from experiments.setting import EVERY, Question

QUESTION = Question(
    name="box_loss",
    title="The form of the box loss",
    chapter="losses",
    asks="L1, smooth L1 with which σ, L2, or a loss of the IoU itself?",
    expected="Little between L1 and σ = 1; L2 and small σ lose COCO AP; GIoU gains it if weighted well.",
    variants={
        "smooth L1, σ = 1": {},
        "L1": {"loss.box": "l1"},
        "smooth L1, σ = 0.5": {"loss.sigma": 0.5},
        "smooth L1, σ = 3": {"loss.sigma": 3.0},
        "L2": {"loss.box": "l2"},
        "GIoU": {"loss.box": "giou"},
        "GIoU, weight 5": {"loss.box": "giou", "loss.box_weight": 5.0},
    },
    more={
        "smooth L1, σ = 2": {"loss.sigma": 2.0},
        "smooth L1, σ = 10": {"loss.sigma": 10.0},
        "smooth L1, σ = 0.5, weight 4": {"loss.sigma": 0.5, "loss.box_weight": 4.0},
        "D2L as published": D2L,
    },
    baseline="smooth L1, σ = 1",
    presets=EVERY,
    curves={"σ": {"smooth L1": {s: f"smooth L1, σ = {s:g}" for s in (0.5, 1, 2, 3, 10)}}},
)
