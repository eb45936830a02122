from experiments.recipes import ALL_NEGATIVES, PRIOR_BIAS
from experiments.setting import Question

TUNED = {"finetune": 24}

QUESTION = Question(
    name="finetuning",
    title="A frozen backbone, and all weights",
    chapter="improving",
    asks="What does fine-tuning add to a head on frozen features, and do the losses matter then?",
    expected="Fine-tuning adds more than any choice of a loss; all negatives with the bias stay best.",
    variants={
        "frozen": {},
        "fine-tuned": TUNED,
        "frozen, all negatives, prior bias": ALL_NEGATIVES,
        "fine-tuned, all negatives, prior bias": {**TUNED, **ALL_NEGATIVES},
        "fine-tuned, σ = 3": {**TUNED, "loss.sigma": 3.0},
        "fine-tuned, γ = 2, prior bias": {
            **TUNED,
            "loss.cls": "focal",
            "loss.negatives": None,
            "loss.gamma": 2.0,
            **PRIOR_BIAS,
        },
    },
    baseline="frozen",
    presets=("boards",),
)
