from experiments.setting import Question

CROWD = {"crowded": 5}

QUESTION = Question(
    name="suppression",
    title="Suppression in crowded images",
    chapter="evaluation",
    asks="Hard or soft NMS, within classes or across, on images with at least five objects?",
    expected="Soft-NMS gains at high IoU and loses at 0.5; suppression across classes loses a little.",
    variants={
        "hard, IoU 0.45": CROWD,
        "hard, across classes": {**CROWD, "detect.class_aware": False},
        "hard, IoU 0.3": {**CROWD, "detect.iou_threshold": 0.3},
        "hard, IoU 0.6": {**CROWD, "detect.iou_threshold": 0.6},
        "Soft-NMS, linear": {**CROWD, "detect.soft": "linear"},
        "Soft-NMS, Gaussian, σ = 0.1": {**CROWD, "detect.soft": "gaussian", "detect.sigma": 0.1},
        "Soft-NMS, Gaussian, σ = 0.5": {**CROWD, "detect.soft": "gaussian", "detect.sigma": 0.5},
    },
    baseline="hard, IoU 0.45",
    presets=("scenes", "cards"),  # an image of bananas has one, and most of boards
)
