from experiments.recipes import D2L
from experiments.setting import EVERY, Question

QUESTION = Question(
    name="images",
    title="Training images: how many, and varied how",
    chapter="improving",
    asks="What is another image worth, and each augmentation, for the same number of updates?",
    expected="More images always help; flips replace some of them; cropping hurts in short trainings.",
    variants={
        "flips and colours": {},
        "none": {"augment": None},
        "× 1/4 images": {"count_times": 0.25},
        "× 2 images": {"count_times": 2},
    },
    more={
        "flips only": {"augment.color": 0},
        "colours only": {"augment.flip": 0},
        "× 1/8 images": {"count_times": 0.125},
        "+ zooming out": {"augment.expand": 0.25},
        "+ cropping": {"augment.crop": 0.5},
        "× 1/4 images, none": {"count_times": 0.25, "augment": None},
        "× 4 images": {"count_times": 4},
        "D2L as published": D2L,
    },
    baseline="flips and colours",
    presets=EVERY,
)
