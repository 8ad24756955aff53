"""Rules for what a checkpoint contains, checked before any of it is used; engine/checkpoint.py turns a Misfit into a message.

A rule is a function that is called with a value and raises Misfit if the value breaks it. Rules are put together as the values
that they check are: `fields` of a dict, `mapped` and `listed` of many values alike.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from eval.reading import clipped, is_text

Rule = Callable[[Any], None]

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
COUNTS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MOST = 2**63 - 1


class Misfit(Exception):
    """A value that breaks a rule; `place` is where it is in the value that was checked, as in optimizer.state.0.step."""

    def __init__(self, found: str, expected: str, place: str = ""):
        super().__init__(f"{place or 'the content'} is {found}; expected {expected}")
        self.found, self.expected, self.place = found, expected, place


def shown(value: Any) -> str:
    """A value for a message, in one short line; never fails and never walks into what is nested."""
    if isinstance(value, Tensor):
        return f"a tensor of {_kind(value)}"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > MOST:
        return "a number of more than 64 bits"
    if value is None or isinstance(value, bool | int | float | str | bytes | complex):
        text = repr(value[:80] if isinstance(value, str | bytes) else value)
        return clipped(text, 60)
    size = f" of {len(value)}" if isinstance(value, list | tuple | Mapping) else ""
    return f"a {type(value).__name__}{size}"


def _kind(value: Tensor) -> str:
    """The dtype of a tensor, its shape, and how it is stored if not as plain numbers."""
    if value.is_nested:
        return "many shapes (nested)"
    stored = "quantized" if value.is_quantized else "without values (meta)" if value.is_meta else ""
    stored = stored or ("" if value.layout == torch.strided else "sparse")
    return " ".join(part for part in (str(value.dtype).removeprefix("torch."), str(tuple(value.shape)), stored) if part)


# ------------------------------------------------------------------------------------------------------- plain values


def anything(value: Any) -> None:
    pass


def name(value: Any) -> None:
    """Any string, also of bytes in a file's name that are no characters."""
    if not isinstance(value, str):
        raise Misfit(shown(value), "text")


def text(value: Any) -> None:
    """What can be written to a file."""
    name(value)
    if not is_text(value):
        raise Misfit(shown(value), "text of valid characters")


def true_or_false(value: Any) -> None:
    if not isinstance(value, bool):
        raise Misfit(shown(value), "True or False")


def number(least: float = -math.inf, most: float = math.inf, above: bool = False) -> Rule:
    """A finite number in `least` .. `most`, without `least` itself if it has to be `above`."""
    limits = f" {'above' if above else 'of at least'} {least:g}" * (least > -math.inf) + f" up to {most:g}" * (most < math.inf)

    def rule(value: Any) -> None:
        given = isinstance(value, float | int) and not isinstance(value, bool)
        if not given or (isinstance(value, int) and abs(value) > MOST) or not math.isfinite(value):
            raise Misfit(shown(value), f"a finite number{limits}")
        if not least <= value <= most or (above and value == least):
            raise Misfit(shown(value), f"a number{limits}")

    return rule


def whole(least: int = 0, most: int = MOST) -> Rule:
    limits = f" of at least {least}" + f" up to {most}" * (most < MOST)

    def rule(value: Any) -> None:
        if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
            raise Misfit(shown(value), f"a whole number{limits}")

    return rule


def one_of(values: Iterable[Any]) -> Rule:
    known = list(values)

    def rule(value: Any) -> None:
        if not isinstance(value, str | int) or value not in known:
            raise Misfit(shown(value), f"one of {', '.join(map(str, known[:8]))}{', ...' * (len(known) > 8)}")

    return rule


def setting(value: Any) -> None:
    """What a Config has: a text, a number, True, False, None, or a list of these."""
    for part in _listed(value):
        if isinstance(part, str):
            text(part)
        if type(part) not in (str, int, float, bool, type(None)) or (isinstance(part, int) and abs(part) > MOST):
            raise Misfit(shown(part), "text, numbers, True, False or None, or a list of them")


# --------------------------------------------------------------------------------------------------------- containers


def _inside(place: Any, rule: Rule, value: Any) -> None:
    try:
        rule(value)
    except Misfit as misfit:
        own = place if isinstance(place, str) and len(place) <= 60 and place.isprintable() else shown(place)
        raise Misfit(misfit.found, misfit.expected, f"{own}.{misfit.place}".rstrip(".")) from None


def listed(rule: Rule, length: int | None = None) -> Rule:
    def check(value: Any) -> None:
        if not isinstance(value, list | tuple) or length not in (None, len(value)):
            raise Misfit(shown(value), f"a list{f' of {length}' if length is not None else ''}")
        for number, part in enumerate(value):
            _inside(number, rule, part)

    return check


def mapped(rule: Rule, empty: bool = True, keys: Rule = text) -> Rule:
    """A dict with a rule for all values and one for all keys; `empty` says whether it may have none."""

    def check(value: Any) -> None:
        if not isinstance(value, Mapping) or not (value or empty):
            raise Misfit(shown(value), "a dict" if empty else "a dict with keys")
        for key, part in value.items():
            _inside("a key", keys, key)
            _inside(key, rule, part)

    return check


def fields(rules: Mapping[Any, Rule], optional: Mapping[Any, Rule] | None = None, others: Rule | None = None) -> Rule:
    """A dict with all keys of `rules`; besides those of `optional`, it has no others, or `others` is their rule."""
    known = {**rules, **(optional or {})}

    def check(value: Any) -> None:
        if not isinstance(value, Mapping):
            raise Misfit(shown(value), f"a dict of {', '.join(map(str, rules)) or 'nothing'}"[:200])
        lacking = [key for key in rules if key not in value]
        foreign = [key for key in value if key not in known]
        if lacking or (foreign and others is None):
            found = f"without {shown(lacking[0])}" if lacking else f"with the unknown key {shown(foreign[0])}"
            raise Misfit(f"{shown(value)} {found}", f"the keys {', '.join(map(str, known)) or 'of none'}"[:200])
        for key, part in value.items():
            if key not in known:
                _inside("a key", text, key)
            _inside(key, known.get(key) or others or anything, part)

    return check


def none_or(rule: Rule) -> Rule:
    return lambda value: None if value is None else rule(value)


def nothing_or(rule: Rule) -> Rule:
    """An empty dict, or what `rule` says."""
    return lambda value: None if isinstance(value, Mapping) and not value else rule(value)


nothing = fields({})


# ------------------------------------------------------------------------------------------------------------ tensors


def is_plain(value: Any) -> bool:
    """True for a tensor of numbers in memory: not sparse, quantized, nested or without values."""
    if not isinstance(value, Tensor) or value.is_nested or value.is_quantized:
        return False
    return value.layout == torch.strided and value.device.type == "cpu"


def array(
    dtype: torch.dtype, shape: Sequence[int | None], least: float = -math.inf, most: float = math.inf, finite: bool = True
) -> Rule:
    """A tensor of exactly this dtype and shape, None where any length will do, with all values in `least` .. `most`."""
    wanted = f"a tensor of {str(dtype).removeprefix('torch.')} ({', '.join('N' if n is None else str(n) for n in shape)})"
    limits = f" of at least {least:g}" * (least > -math.inf) + f" up to {most:g}" * (most < math.inf)

    def check(value: Any) -> None:
        fits = is_plain(value) and not value.requires_grad and value.dtype == dtype and value.dim() == len(shape)
        if not fits or any(n not in (m, None) for m, n in zip(value.shape, shape, strict=True)):
            raise Misfit(shown(value), wanted)
        if value.untyped_storage().nbytes() < value.nbytes:  # the file of a billion such values may be tiny
            raise Misfit(f"{shown(value)} whose values share memory", wanted)
        good = (value >= least) & (value <= most)  # False for NaN
        if not (good & value.isfinite() if finite else good).all():
            raise Misfit(f"{shown(value)} with others", f"finite values{limits}")

    return check


def weight(own: Tensor) -> Rule:
    """A tensor that `own` can take its values from: of its shape, floats of any width for floats, counts for counts."""
    floats = own.is_floating_point()
    wanted = f"{'floating-point numbers' if floats else 'whole numbers of at least 0'} {tuple(own.shape)}"

    def check(value: Any) -> None:
        if not is_plain(value) or value.dtype not in (FLOATS if floats else COUNTS) or value.shape != own.shape:
            raise Misfit(shown(value), f"a tensor of {wanted}")
        taken = value.detach().to(own.dtype)
        if not (taken.isfinite() if floats else taken >= 0).all():
            found = "not finite as " + str(own.dtype).removeprefix("torch.") if floats else "negative"
            raise Misfit(f"{shown(value)} with values that are {found}", wanted)

    return check


# ------------------------------------------------------------------------------------------------ parts of a checkpoint

SHARE = number(0, 1 + 1e-6)


def record_rule(tious: Iterable[str]) -> Rule:
    """A line of log.jsonl (engine.files.record_of), with mAP at these thresholds; keys besides are losses."""
    scores: dict[str, Rule] = {"ground_truth": text, "mAP": fields(dict.fromkeys(tious, SHARE)), "averages": mapped(SHARE)}
    shares = ("test_acc", "classification_mAP", "top1", "average_mAP", "choice")
    counts: dict[str, Rule] = {"iteration": whole(1), "num_detections": whole()}
    counts |= {"lost": mapped(whole()), "unknown_labels": mapped(whole())}
    others: dict[str, Rule] = {"average_recall": mapped(SHARE), "protocol": text, "with_features": none_or(fields(scores))}
    whether = {"best": true_or_false}
    needed = dict.fromkeys(shares, SHARE) | scores | counts | others | whether | {"loss_total": number()}
    return fields(needed, {"step": whole(), "unit": text}, number())


LOGGED = fields(  # what a summary reads of a line of log.jsonl, of earlier versions too
    {
        **dict.fromkeys(("test_acc", "classification_mAP", "top1", "average_mAP"), SHARE),
        **{"iteration": whole(), "mAP": mapped(SHARE, empty=False), "averages": mapped(SHARE), "average_recall": mapped(SHARE)},
        **{"protocol": text, "ground_truth": text},
    },
    {
        **{"best": true_or_false, "choice": SHARE, "lost": mapped(whole())},
        "with_features": none_or(
            fields({"ground_truth": text, "mAP": mapped(SHARE, empty=False), "averages": mapped(SHARE)}, others=anything)
        ),
    },
    anything,
)


def in_order(records: Rule, done: int) -> Rule:
    """Records of evaluations after ascending iterations, up to those `done`."""

    def check(value: Any) -> None:
        records(value)
        found = [record["iteration"] for record in value]
        if sorted(set(found)) != found or (found and found[-1] > done):
            raise Misfit(f"of the iterations {shown(str(found))}", f"ascending iterations up to {done}")

    return check


def best_of(rule: Rule, records: Any) -> Rule:
    """The best model, which is of one of these records; none without records."""

    def check(value: Any) -> None:
        if value is None and not records:
            return
        rule(value)
        if value["record"] not in records:
            raise Misfit("of an evaluation that is not in records", "one of them")

    return check


def found_rule(videos: Sequence[str], num_classes: int, **others: Rule) -> Rule:
    """The detections in these videos, in any order, as columns: so many of each video, one after the other."""
    rules = {
        "videos": listed(name),
        "counts": array(torch.int64, (len(videos),), 0),
        "classes": array(torch.int64, (None,), 0, num_classes - 1),
        "scores": array(torch.float64, (None,)),
        "segments": array(torch.float64, (None, 2)),
    }

    def rule(found: Any) -> None:
        fields(rules | others)(found)
        if sorted(found["videos"]) != sorted(videos):
            raise Misfit("of other videos", f"detections in the {len(videos)} videos of this run")
        if {len(found[column]) for column in ("classes", "scores", "segments")} != {int(found["counts"].sum())}:
            raise Misfit("of different lengths", "as many classes, scores and segments as counts add up to")

    return rule


def optimizer_rule(optimizer: torch.optim.Optimizer, iteration: int) -> Rule:
    """The state of Adam for the parameters of `optimizer`: moments like them, and the settings of this run."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    moments = {
        number: fields(
            {
                "step": array(torch.float32, (), 1, max(1, iteration)),
                "exp_avg": array(parameter.dtype, parameter.shape),
                # in a run that goes on it may overflow to inf; such a weight stays as it is
                "exp_avg_sq": array(parameter.dtype, parameter.shape, 0, finite=False),
            }
        )
        for number, parameter in enumerate(parameters)
    }

    def state(value: Any) -> None:
        fields({}, moments)(value)
        if iteration and not value:
            raise Misfit(shown(value), f"moments of the parameters, after {iteration} iterations")

    def group(own: Mapping[str, Any]) -> Rule:
        def same(key: str) -> Rule:
            def check(value: Any) -> None:
                setting(value)
                if key != "lr" and _listed(value) != _listed(own[key]):  # the rate is set at every step
                    raise Misfit(shown(value), f"{own[key]!r}"[:80])

            return check

        return fields({key: same(key) for key in ("params", "lr")}, {key: same(key) for key in own}, setting)

    def groups(value: Any) -> None:
        own = optimizer.state_dict()["param_groups"]
        listed(anything, len(own))(value)
        for number, part in enumerate(value):
            _inside(number, group(own[number]), part)

    return fields({"state": state, "param_groups": groups})


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


SCALER = nothing_or(
    fields(
        {
            "scale": number(0, above=True),
            "growth_factor": number(1, above=True),
            "backoff_factor": number(0, 1, above=True),
            "growth_interval": whole(1),
            "_growth_tracker": whole(),
        }
    )
)


def draws_rule(official: bool, videos: int) -> Rule:
    """What dataset.draws keeps for a run over so many training videos."""
    if not official:
        return nothing

    def numpy(value: Any) -> None:
        array(torch.int64, (625,), 0, 2**32 - 1)(value)
        if value[-1] > 624:
            raise Misfit(f"at position {int(value[-1])}", "a position of at most 624")

    def generators(value: Any) -> None:
        listed(array(torch.uint8, (None,)))(value)
        if not 1 <= len(value) <= 2:
            raise Misfit(shown(value), "the states of the CPU's generator and, of a run on a GPU, of the GPU's")
        generator = torch.Generator()
        try:
            generator.set_state(value[0])
        except (RuntimeError, TypeError) as error:
            raise Misfit(f"no state of a generator ({str(error)[:80]})", "one of torch's") from None
        if not torch.equal(generator.get_state(), value[0]):
            raise Misfit("a state that no generator has", "one of torch's")

    def order(value: Any) -> None:
        array(torch.int64, (None,))(value)
        if len(value) and not torch.equal(value.sort().values, torch.arange(videos)):
            raise Misfit(shown(value), f"every number below {videos} once, or none")

    return fields({"numpy": numpy, "torch": generators, "order": order})
