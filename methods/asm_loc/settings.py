"""ASM-Loc's flags, recipes and quirks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from config import ANY, MOST_ITERATIONS, Config, Quirk, Settings, derived, flag, ours, parse_thresholds, published
from engine.flags import at_most, not_negative_integer, not_negative_number, positive_integer, share
from utils import UserError

# The authors published settings for ActivityNet 1.3 only. Derived recipes have its epochs, times their own number of batches.
ACTIVITYNET: Settings = {
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


@dataclass(frozen=True, kw_only=True)
class ASMLocConfig(Config):
    """ASM-Loc's settings; defaults are the published values for THUMOS'14."""

    steps: int = flag(3, "refinement steps after the base network", at_most(100, not_negative_integer))
    step_iters: int = flag(  # 100 epochs of 13
        1300, "iterations of each step except the last, which has the rest", at_most(MOST_ITERATIONS), metavar="N"
    )
    dropout_on: str = flag(
        "classifier",
        "layers that --dropout precedes: the classifier, or also the embedding, attention and uncertainty",
        choices=["classifier", "everything"],
    )
    r_fg: int = flag(8, "foreground score: mean over one in R_FG of a video's snippets", positive_integer)
    r_bg: int = flag(3, "background score: mean over one in R_BG of a video's snippets", positive_integer)
    lambda_fg: float = flag(1.0, "weight of the foreground score's loss", not_negative_number)
    lambda_bg: float = flag(0.5, "weight of the background score's loss, with target background", not_negative_number)
    lambda_ab: float = flag(0.5, "weight of the background score's loss, with the actions as target", not_negative_number)
    beta: float = flag(0.2, "weight of the mean uncertainty in the loss", not_negative_number)
    delta: float = flag(0.5, "widening of a proposal at each end, in its lengths, to attend and stretch", not_negative_number)
    gamma: float = flag(6.0, "snippets that a short proposal is stretched to, before widening", not_negative_number)
    proposal_share: float = flag(
        0.7, "a class's best proposals, up to this share of its summed scores, stretch time (alpha)", share
    )
    stretch_by: str = flag(
        "annotated",
        "classes whose proposals stretch a training video: those annotated in it, or those detected in it, as in the official "
        "code on ActivityNet (quirk Q4)",
        choices=["annotated", "detected"],
    )
    att_th: str = flag("0.1:0.925:0.025", "thresholds of the attention, start:stop:step (for the activation: --cas_th)")
    attention_share: float = flag(0.0, "share of the attention in the curve that scores proposals", share)
    pseudo_by: str = flag("attention", "curve that gives the proposals for the next step", choices=["attention", "activation"])
    pseudo_th: str = flag("0.4:0.925:0.025", "thresholds of the --pseudo_by curve, start:stop:step")

    QUIRKS: ClassVar = {
        "Q2": Quirk("the best model of a step has to beat those of all earlier steps"),
        "Q8": Quirk("non-maximum suppression adds one second to lengths and intersections"),
        "Q28": Quirk("durations are ignored: a video lasts as long as its snippets"),
    }
    RECIPES: ClassVar = {
        ANY: published(
            seed=2,
            lr="[0.0001]*10400",  # 800 epochs of 13
            weight_decay=5e-5,
            scale=20,
            cas_th="0.15:0.25:0.05",
            outer=0.2,
            class_weight=0.0,
            nms_th=0.45,
        ),
        "thumos14": published(choose_by="0.1:0.7"),
        "activitynet1.2": derived(ACTIVITYNET, lr="[0.0001]*7600", step_iters=3800, stretch_by="annotated"),
        "activitynet1.3": published(ACTIVITYNET),
        "hacs": derived(ACTIVITYNET, lr="[0.0001]*58800", step_iters=29400, stretch_by="annotated"),
        "demo": ours(choose_by="0.1:0.7", seed=0, num_segments=128, hidden=128, lr="[0.001]*600", steps=2, step_iters=200),
        "demo-activitynet": ours(
            ACTIVITYNET,
            seed=0,
            hidden=128,
            lr="[0.001]*400",
            step_iters=200,
            batch_size=32,
            stretch_by="annotated",
        ),
    }
    MUST_AGREE: ClassVar = (*Config.MUST_AGREE, "steps", "dropout_on")
    SHOULD_AGREE: ClassVar = (*Config.SHOULD_AGREE, "delta", "gamma", "proposal_share", "pseudo_by", "pseudo_th")
    RECORD_AVERAGE: ClassVar = "0.1:0.7"

    def record_text(self, record: Mapping[str, Any], epoch: int) -> str:
        """The authors' log.txt entry: a table between horizontal rules, then an empty line."""
        thresholds, maps = ("||".join(f"{float(x):.3f}" for x in column) for column in zip(*record["mAP"].items(), strict=True))
        lines = [f"|t-IoU |{thresholds}|", f"|mAP   |{maps}|", f"|Average-mAP: {self.record_average(record):.4f}"]
        rule = "-" * 79 + "\n"
        return rule + "".join(f"{line}\n{rule}" for line in lines) + "\n"

    @property
    def best_of_each_step(self) -> bool:
        return "Q2" in self.repaired

    def step_of(self, iteration: int) -> int:
        """The step that trains in this iteration."""
        return min(iteration // self.step_iters, self.steps)

    @property
    def described(self) -> str:
        taken = self.step_of(self.num_iters - 1)
        return f"{self.steps} refinement step{'s' * (self.steps != 1)}" + (
            f", of which {taken} are reached" if taken < self.steps else ""
        )

    @property
    def snippets_per_second(self) -> float:
        return self.fps / self.snippet_frames

    @cached_property
    def att_thresholds(self) -> list[float]:
        return parse_thresholds("--att_th", self.att_th)

    @cached_property
    def pseudo_thresholds(self) -> list[float]:
        return parse_thresholds("--pseudo_th", self.pseudo_th)

    @property
    def uniform_losses(self) -> dict[str, float]:
        return {"loss_fg": math.log(self.num_classes + 1)} if self.lambda_fg else {}

    def check(self) -> None:
        super().check()
        _ = self.att_thresholds, self.pseudo_thresholds
        if self.num_segments < 2:
            raise UserError(f"--num_segments {self.num_segments}: batch norm needs at least two snippets.")
