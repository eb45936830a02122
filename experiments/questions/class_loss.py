from experiments.recipes import ALL_NEGATIVES, CLASS_LOSS, D2L, PRIOR_BIAS
from experiments.setting import EVERY, Question

QUESTION = Question(
    name="class_loss",
    title="Which anchors count in the class loss",
    chapter="training",
    asks="All negatives or some, hard ones or random ones, how many, and divided by what?",
    expected="Hard negatives at 3 : 1 do best; all negatives over positives drown the objects.",
    variants={
        "hard, 3 : 1": {},
        "mean over all anchors": CLASS_LOSS,
        "all, over positives": {"loss.negatives": None},
        "random, 3 : 1": {"loss.mining": "random"},
        "hard, 1 : 1": {"loss.negatives": 1.0},
        "hard, 10 : 1": {"loss.negatives": 10.0},
        "all, over positives, prior bias": ALL_NEGATIVES,
    },
    more={
        "mean over all anchors, prior bias": {**CLASS_LOSS, **PRIOR_BIAS},
        "D2L as published": D2L,
    },
    baseline="hard, 3 : 1",
    presets=EVERY,
)
