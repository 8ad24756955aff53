"""What differs from the defaults of options.py for another method or data set.

Strongest first: a flag on the command line, a default that was edited in options.py, a recipe, options.py as it is shipped.
Standard library only, as config.py.
"""

import operator
from functools import reduce
from typing import Any

from dataset.facts import KNOWN

METHODS = {"basnet": "BaSNet", "um": "UM", "backtal": "BackTAL", "asm_loc": "ASM_Loc"}  # and what their folders are called

Settings = dict[str, Any]
Recipes = dict[tuple[str, str], Settings]  # by method and data set
ANY = ""  # data set, unless another recipe says otherwise

# options.py as it is shipped: the flags that a recipe may set. A default of options.py that is not the one here was edited.
# The published values on THUMOS'14: BaS-Net's for the flags that all methods share, then each method's for its own.
PUBLISHED_DEFAULTS: Settings = {
    "class_th": 0.25,
    "lr": "[0.0001]*1500",
    "batch_size": 16,
    "weight_decay": 5e-4,
    "dropout": 0.7,
    "num_segments": 750,
    "hidden": 2048,
    "scale": 24,
    "cas_th": "0:0.25:0.025",
    "outer": 0.25,
    "class_weight": 0.2,
    "nms_th": 0.7,
}
OWN_DEFAULTS: dict[str, Settings] = {
    "basnet": {"alpha": 1e-4, "topk": 0.125, "whole_video": None, "ablation": "full", "bce_reduction": "mean"},
    "um": {
        "variant": "official",
        "alpha": 5e-4,
        "beta": 1.0,
        "margin": 100.0,
        "r_act": 9,
        "r_bkg": 4,
        "mag_th": "0.4:0.625:0.025",
        "bce_reduction": "mean",
        "um_loss": None,
    },
    "backtal": {
        "alpha": 1e-4,
        "topk": 0.125,
        "whole_video": None,
        "affinity_layout": "official",
        "sep_weight": 1.0,
        "emb_weight": 0.8,
        "sep_topk": 0.125,
        "similar_min": 0.5,
        "different_max": 0.1,
        "mag_th": "0.3,0.375,0.45,0.525,0.6,0.675,0.75",
        "shrink": 0.0,
    },
    "asm_loc": {
        "steps": 3,
        "step_iters": 1300,  # 100 epochs of 13
        "dropout_on": "classifier",
        "r_fg": 8,
        "r_bg": 3,
        "lambda_fg": 1.0,
        "lambda_bg": 0.5,
        "lambda_ab": 0.5,
        "beta": 0.2,
        "delta": 0.5,
        "gamma": 6.0,
        "proposal_share": 0.7,
        "stretch_by": "annotated",
        "att_th": "0.1:0.925:0.025",
        "attention_share": 0.0,
        "pseudo_by": "attention",
        "pseudo_th": "0.4:0.925:0.025",
    },
}
OTHER_DEFAULTS: Settings = {
    "seed": -1,
    "num_iters": None,
    "eval_every": "epoch",
    "choose_by": "all",
    "timing": None,
    "compat": "official",
    "fix": "",
}

# The papers and the official codes.
PUBLISHED: Recipes = {
    ("basnet", ANY): {},
    ("um", ANY): {"class_th": 0.2, "lr": "[0.0001]*10000", "eval_every": "100", "nms_th": 0.6},
    ("um", "thumos14"): {"choose_by": "0.1:0.7"},
    ("um", "activitynet1.2"): {"variant": "leftthomas-fixed", "num_segments": 50, "timing": "rows"},
    ("um", "activitynet1.3"): {"variant": "leftthomas-fixed", "num_segments": 50, "timing": "rows"},
    ("backtal", ANY): {"seed": 38, "lr": "[0.0001]*520", "scale": 1, "nms_th": 0.55},
    ("backtal", "thumos14"): {"choose_by": "0.5"},
}
PUBLISHED["backtal", "activitynet1.2"] = {
    "seed": 5,
    "sep_weight": 0.1,
    "topk": 0.6,
    "sep_topk": 0.2,
    "class_th": 0.1,
    "lr": "[0.0002]*950",
    "batch_size": 128,
    "num_segments": 100,
    "cas_th": "0:0.15:0.025",
    "mag_th": None,
    "outer": 20.0,
    "class_weight": 0.6,
    "nms_th": 0.7,
    "shrink": 0.02,
    "whole_video": 0.6,
}
PUBLISHED["backtal", "hacs"] = PUBLISHED["backtal", "activitynet1.2"] | {
    "class_th": 0.075,
    "lr": "[0.0001]*4704",
    "batch_size": 64,
    "num_segments": 200,
    "cas_th": "0:0.2:0.025",
    "outer": 200.0,
    "nms_th": 0.71,
}
PUBLISHED["asm_loc", ANY] = {
    "seed": 2,
    "lr": "[0.0001]*10400",  # 800 epochs of 13
    "weight_decay": 5e-5,
    "scale": 20,
    "cas_th": "0.15:0.25:0.05",
    "outer": 0.2,
    "class_weight": 0.0,
    "nms_th": 0.45,
}
PUBLISHED["asm_loc", "thumos14"] = {"choose_by": "0.1:0.7"}
PUBLISHED["asm_loc", "activitynet1.3"] = {
    "steps": 1,
    "step_iters": 7100,  # 50 epochs of 142
    "lr": "[0.0001]*14200",  # 100 epochs
    "batch_size": 64,
    "weight_decay": 1e-3,
    "dropout_on": "everything",
    "num_segments": 150,
    "r_fg": 2,
    "r_bg": 10,
    "lambda_fg": 5.0,
    "delta": 0.0,
    "gamma": 10.0,
    "proposal_share": 0.3,
    "stretch_by": "detected",
    "class_th": 0.1,
    "cas_th": "0.005:0.025:0.005",
    "att_th": "0.005:0.025:0.005",
    "attention_share": 0.3,
    "pseudo_by": "activation",
    "pseudo_th": "0.1:0.305:0.005",
    "outer": 0.15,
    "class_weight": 0.25,
    "nms_th": 0.9,
}
# BaS-Net's authors published no setting for these data sets. BackTAL did, for the same two branches plus clicks; the lengths
# of the schedules are its epochs times the batches of the complete training set.
UNPUBLISHED: Recipes = {}
UNPUBLISHED["basnet", "activitynet1.2"] = {
    "num_segments": 100,
    "topk": 0.6,
    "lr": "[0.0002]*950",
    "batch_size": 128,
    "class_th": 0.1,
    "cas_th": "0:0.15:0.025",
    "outer": 20.0,
    "class_weight": 0.6,
    "nms_th": 0.7,
    "whole_video": 0.6,
    "bce_reduction": "classsum",
}
UNPUBLISHED["basnet", "activitynet1.3"] = UNPUBLISHED["basnet", "activitynet1.2"] | {"lr": "[0.0002]*1975"}
UNPUBLISHED["basnet", "hacs"] = UNPUBLISHED["basnet", "activitynet1.2"] | {
    "num_segments": 200,
    "lr": "[0.0001]*4704",
    "batch_size": 64,
    "class_th": 0.075,
    "cas_th": "0:0.2:0.025",
    "outer": 200.0,
    "nms_th": 0.71,
}
UNPUBLISHED["backtal", "activitynet1.3"] = PUBLISHED["backtal", "activitynet1.2"] | {"lr": "[0.0002]*1975"}
# ASM-Loc's authors published ActivityNet 1.3; the other two have its epochs, times their own batches.
UNPUBLISHED |= {
    ("asm_loc", name): PUBLISHED["asm_loc", "activitynet1.3"] | {"lr": f"[0.0001]*{epoch * 100}", "step_iters": epoch * 50}
    for name, epoch in (("activitynet1.2", 76), ("hacs", 588))
}
OURS: Recipes = {
    ("backtal", "demo"): PUBLISHED["backtal", "thumos14"]
    | {"seed": 0, "num_segments": 128, "hidden": 128, "lr": "[0.0015]*480", "alpha": 3e-4},
    ("backtal", "demo-activitynet"): PUBLISHED["backtal", "activitynet1.2"]
    | {"seed": 0, "hidden": 128, "lr": "[0.0015]*400", "batch_size": 32},
    ("asm_loc", "demo"): PUBLISHED["asm_loc", "thumos14"]
    | {"seed": 0, "num_segments": 128, "hidden": 128, "lr": "[0.001]*600", "steps": 2, "step_iters": 200},
    ("asm_loc", "demo-activitynet"): PUBLISHED["asm_loc", "activitynet1.3"]
    | {"seed": 0, "hidden": 128, "lr": "[0.001]*400", "step_iters": 200, "batch_size": 32},
    ("basnet", "demo"): {"seed": 0, "num_segments": 128, "hidden": 128, "lr": "[0.0015]*480", "alpha": 3e-4},
    ("basnet", "demo-activitynet"): UNPUBLISHED["basnet", "activitynet1.2"]
    | {"seed": 0, "hidden": 128, "lr": "[0.0015]*400", "batch_size": 32},
    ("um", "demo"): PUBLISHED["um", "thumos14"]
    | {"seed": 0, "num_segments": 128, "hidden": 128, "lr": "[0.002]*480", "eval_every": "epoch"}
    | {"margin": 1.0, "alpha": 5e-3, "r_act": 3, "r_bkg": 2},
    ("um", "demo-activitynet"): PUBLISHED["um", "activitynet1.2"]
    | {"seed": 0, "hidden": 128, "lr": "[0.0015]*400", "batch_size": 32, "eval_every": "epoch"}
    | {"margin": 3.0, "r_act": 3, "r_bkg": 2, "bce_reduction": "classsum"},
}


# Where there is an official number to reproduce. Elsewhere quirks are repaired: nothing asks for them (docs/quirks.md).
OFFICIAL_NUMBERS = {("basnet", "thumos14")}
OFFICIAL_NUMBERS |= {("um", name) for name in ("thumos14", "activitynet1.2", "activitynet1.3")}
OFFICIAL_NUMBERS |= {("backtal", name) for name in ("thumos14", "activitynet1.2", "hacs")}
OFFICIAL_NUMBERS |= {("asm_loc", name) for name in ("thumos14", "activitynet1.3")}


def shipped(method: str) -> Settings:
    """The defaults of options.py as it is shipped, of the flags that a recipe may set."""
    return PUBLISHED_DEFAULTS | OTHER_DEFAULTS | OWN_DEFAULTS[method]


def recipe(method: str, dataset: str) -> Settings:
    """The flags that `method` on `dataset` has other values for than options.py as it is shipped."""
    quirks = {} if (method, dataset) in OFFICIAL_NUMBERS else {"compat": "fixed"}
    own = (table.get((method, dataset), {}) for table in (PUBLISHED, UNPUBLISHED, OURS))
    settings = reduce(operator.or_, own, PUBLISHED[method, ANY] | quirks)
    usual = shipped(method)
    return {flag: value for flag, value in settings.items() if value != usual[flag]}


def recipe_name(method: str, dataset: str) -> str:
    """What a recipe is called: `demo`, `um`, `um on demo`."""
    place = dataset if dataset in KNOWN else "your own data"
    names = [method] * (method != "basnet") + [place] * (dataset != "thumos14")
    return " on ".join(names)


def origin(flag: str, method: str, dataset: str) -> str | None:
    """Where a default comes from, if it is published, derived or of a recipe."""
    if flag in OURS.get((method, dataset), {}):
        return f"recipe of {dataset}"
    if flag in UNPUBLISHED.get((method, dataset), {}):
        return "derived, unpublished"
    if flag == "compat" and (method, dataset) not in OFFICIAL_NUMBERS:
        return "no official number to reproduce"
    if flag not in PUBLISHED_DEFAULTS | OWN_DEFAULTS[method] | PUBLISHED[method, ANY]:
        return None
    return "published" if dataset == "thumos14" or (method, dataset) in PUBLISHED else "published for thumos14"
