from experiments.questions import box_loss, class_loss, ladder
from experiments.recipes import ALL_NEGATIVES
from experiments.setting import Question

QUESTION = Question(
    name="metrics",
    title="Ten recipes, ranked by five measures",
    chapter="evaluation",
    asks="Do class error, box MAE, VOC AP and COCO AP put the same ten recipes into the same order?",
    expected="The APs nearly agree with each other; class error and MAE agree with nothing.",
    variants={
        **{name: c for name, c in ladder.QUESTION.variants.items() if c != ALL_NEGATIVES},
        "mean over all anchors": class_loss.QUESTION.every["mean over all anchors"],
        "random negatives, 3 : 1": class_loss.QUESTION.every["random, 3 : 1"],
        "L2": box_loss.QUESTION.every["L2"],
    },
    ranked=("class_error", "box_mae", "voc07", "voc12", "ap50", "ap"),
    baseline="+ flips and colours",
)
