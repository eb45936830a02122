from experiments.recipes import D2L
from experiments.setting import Question

QUESTION = Question(
    name="small_objects",
    title="Small objects",
    chapter="improving",
    asks="Larger images, a finer map, or smaller anchors: what finds small objects, at what cost?",
    expected="Larger images gain most and cost most; a finer map gains some of it for little.",
    variants={
        "as it is": {},
        "a finer map": {"finer": 1, "anchors": "with a finer map"},
        "smaller anchors": {"anchors": "smaller"},
        "images × 4/3": {"size_times": 4 / 3},
        "images × 2/3": {"size_times": 2 / 3},
    },
    more={
        "anchors of 256 pixels": {"anchors": "of 256 pixels"},
        "images × 1/2": {"size_times": 0.5},
        "images × 3/2": {"size_times": 1.5},
        "images × 2": {"size_times": 2},
        "D2L as published": D2L,
    },
    baseline="as it is",
)
