from experiments.recipes import ALL_NEGATIVES, D2L, PRIOR_BIAS
from experiments.setting import EVERY, Question

FOCAL = {"loss.cls": "focal", "loss.negatives": None}
SGD = {"optimizer": "sgd", "lr": 0.01}

QUESTION = Question(
    name="focal",
    title="Focal loss in SSD, and why it disappoints",
    chapter="losses",
    asks="With focal loss for hard negatives: do γ, α, prior bias, normaliser or learning rate matter?",
    expected="Without the prior bias it is worse than hard negatives, with it about as good; α = 0.25 costs.",
    variants={
        "hard negatives, 3 : 1": {},
        "γ = 0": {"loss.negatives": None},
        "γ = 0, prior bias": ALL_NEGATIVES,
        "γ = 2": {**FOCAL, "loss.gamma": 2.0},
        "γ = 2, prior bias": {**FOCAL, "loss.gamma": 2.0, **PRIOR_BIAS},
        "γ = 2, α = 0.25": {**FOCAL, "loss.gamma": 2.0, "loss.alpha": 0.25},
        "γ = 2, α = 0.25, prior bias": {**FOCAL, "loss.gamma": 2.0, "loss.alpha": 0.25, **PRIOR_BIAS},
        "γ = 2, mean over all anchors": {**FOCAL, "loss.gamma": 2.0, "loss.cls_normalizer": "anchors"},
        "γ = 2, on hard negatives": {"loss.cls": "focal", "loss.gamma": 2.0},
        "γ = 1, prior bias": {**FOCAL, "loss.gamma": 1.0, **PRIOR_BIAS},
        "γ = 5, prior bias": {**FOCAL, "loss.gamma": 5.0, **PRIOR_BIAS},
    },
    more={
        "γ = 2, α = 0.75, prior bias": {**FOCAL, "loss.gamma": 2.0, "loss.alpha": 0.75, **PRIOR_BIAS},
        "γ = 0.5, prior bias": {**FOCAL, "loss.gamma": 0.5, **PRIOR_BIAS},
        "SGD: hard negatives": SGD,
        "SGD: γ = 2": {**FOCAL, "loss.gamma": 2.0, **SGD},
        "SGD: γ = 2, prior bias": {**FOCAL, "loss.gamma": 2.0, **PRIOR_BIAS, **SGD},
        "SGD: γ = 2, a third of the rate": {**FOCAL, "loss.gamma": 2.0, **SGD, "lr": 0.003},
        "SGD: γ = 2, no clipping": {**FOCAL, "loss.gamma": 2.0, **SGD, "max_grad_norm": None},
        "SGD: γ = 2, prior bias, no clipping": {
            **FOCAL,
            "loss.gamma": 2.0,
            **PRIOR_BIAS,
            **SGD,
            "max_grad_norm": None,
        },
        "γ = 0.5": {**FOCAL, "loss.gamma": 0.5},
        "γ = 1": {**FOCAL, "loss.gamma": 1.0},
        "γ = 5": {**FOCAL, "loss.gamma": 5.0},
        "γ = 2, α = 0.75": {**FOCAL, "loss.gamma": 2.0, "loss.alpha": 0.75},
        "γ = 1, α = 0.25, prior bias": {**FOCAL, "loss.gamma": 1.0, "loss.alpha": 0.25, **PRIOR_BIAS},
        "γ = 1, α = 0.75, prior bias": {**FOCAL, "loss.gamma": 1.0, "loss.alpha": 0.75, **PRIOR_BIAS},
        "γ = 5, α = 0.25, prior bias": {**FOCAL, "loss.gamma": 5.0, "loss.alpha": 0.25, **PRIOR_BIAS},
        "γ = 5, α = 0.75, prior bias": {**FOCAL, "loss.gamma": 5.0, "loss.alpha": 0.75, **PRIOR_BIAS},
        "γ = 2, prior bias, box weight 1/4": {
            **FOCAL,
            "loss.gamma": 2.0,
            **PRIOR_BIAS,
            "loss.box_weight": 0.25,
        },
        "D2L as published": D2L,
    },
    baseline="hard negatives, 3 : 1",
    presets=EVERY,
    curves={
        "γ": {
            "prior bias": {g: f"γ = {g:g}, prior bias" for g in (0, 0.5, 1, 2, 5)},
            "no prior bias": {g: f"γ = {g:g}" for g in (0, 0.5, 1, 2, 5)},
        },
        "α": {"γ = 2, prior bias": {a: f"γ = 2, α = {a}, prior bias" for a in (0.25, 0.75)}},
    },
)
