from experiments.recipes import D2L
from experiments.setting import EVERY, Question

QUESTION = Question(
    name="weights",
    title="The weights of the two losses",
    chapter="improving",
    asks="How much should the box loss count beside the class loss?",
    expected="A broad optimum around 1 : 1; more weight for boxes moves AP50 down and AP75 up.",
    variants={
        "1 : 1": {},
        "1 : 10": {"loss.box_weight": 10.0},
        "10 : 1": {"loss.box_weight": 0.1},
    },
    more={
        "1 : 3": {"loss.box_weight": 3.0},
        "3 : 1": {"loss.box_weight": 0.3},
        "D2L as published": D2L,
    },
    baseline="1 : 1",
    presets=EVERY,
    curves={"box weight": {"": {0.1: "10 : 1", 0.3: "3 : 1", 1: "1 : 1", 3: "1 : 3", 10: "1 : 10"}}},
)
