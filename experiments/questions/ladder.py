from experiments.recipes import (
    ALL_NEGATIVES,
    ANCHORS,
    AUGMENTATION,
    BOX_LOSS,
    BOX_MEAN,
    CLASS_LOSS,
    D2L,
    UPDATES,
    without,
)
from experiments.setting import Question

STEPS = (UPDATES, BOX_MEAN, CLASS_LOSS, BOX_LOSS, ANCHORS)
CLIMB = [without(D2L, *STEPS[:n]) for n in range(len(STEPS) + 1)]

QUESTION = Question(
    name="ladder",
    title="From D2L's recipe to ours, one step at a time",
    chapter="training",
    asks="What does each difference between D2L's recipe and this book's add?",
    expected="Most of it comes from the two normalisers: a mean over all anchors drowns the positives.",
    variants={
        "D2L as published": CLIMB[0],
        "+ AdamW, one cycle, smaller batches": CLIMB[1],
        "+ box loss over positives": CLIMB[2],
        "+ hard negatives, over positives": CLIMB[3],
        "+ smooth L1": CLIMB[4],
        "+ anchors that fit": CLIMB[5],
        "+ flips and colours": without(D2L, *STEPS, AUGMENTATION),
        "+ all negatives, prior bias: ours": ALL_NEGATIVES,
        # 1/4: the mean over the positives' four numbers, where ours is a sum over the four
        "D2L, box loss over positives": {**without(D2L, BOX_MEAN), "loss.box_weight": 0.25},
    },
    baseline="D2L as published",
    ladder=True,
)
