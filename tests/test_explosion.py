"""A run whose loss explodes and stays finite says so; the range of a loss is that of docs/running.md."""

import math

import pytest
import torch
from conftest import TINY

from dataset.video import Video
from engine.report import exploded, explosion
from fast.snippets import Snippets
from methods.base import METHODS, build_method
from methods.losses import cross_entropy, uniform_cross_entropy
from options import make_config, parse_args
from thumos_features import Batch

RUN = ["--seed", "0", "--eval_every", "2", "--num_iters", "6"]


@pytest.mark.parametrize("reduction", ["mean", "classsum"])
@pytest.mark.parametrize("classes", [2, 9, 21, 201])
def test_the_loss_of_equal_scores_is_known_whatever_the_target(classes, reduction):
    target = torch.rand(5, classes, dtype=torch.float64)
    score = torch.full((5, classes), 1 / classes, dtype=torch.float64)
    found = cross_entropy(score, target / target.sum(dim=1, keepdim=True), reduction)
    assert float(found) == pytest.approx(uniform_cross_entropy(classes, reduction), rel=1e-12)
    assert uniform_cross_entropy(1, reduction) == 0, "of one class there is nothing to find out"


@pytest.mark.parametrize("method", METHODS)
def test_the_range_is_that_of_the_methods_own_losses(method, tiny):
    """A network whose classifier is 0 finds all classes equally likely."""
    config = make_config(parse_args([f"--data_path={tiny}", *TINY, "--method", method]))
    built = build_method(config)
    with torch.no_grad():
        for name, weight in built.network.named_parameters():
            if any(part in name for part in ("conv_3", "classifier", "snippet_cls", "f_cls")):
                weight.zero_()
    label_bc = torch.zeros(3, config.num_classes)
    label_bc[[0, 1, 1, 2], [0, 3, 4, 19]] = 1
    videos = [Video("v", 16, label_bc[b].numpy(), [], 25.0, 16, None, False, 6, (), lambda: None, None, None) for b in range(3)]
    terms = built.loss(Batch(Snippets.of(torch.rand(3, 16, 12), torch.float32), label_bc, videos, whole=videos))
    assert config.uniform_losses
    for name, usual in config.uniform_losses.items():
        assert float(terms[name].detach()) == pytest.approx(usual, rel=1e-4)


def test_the_warning_counts_evaluations_and_names_the_first(tiny):
    config = make_config(parse_args([f"--data_path={tiny}", *TINY]))
    usual = config.uniform_losses["loss_base"]
    records = [
        {"iteration": n, "loss_base": factor * usual, "loss_supp": usual} for n, factor in ((2, 1.99), (4, 2.01), (6, 9))
    ]
    assert [bool(exploded(record, config)) for record in records] == [False, True, True]
    assert explosion(records[:1], config) == "" == explosion([{"iteration": 2}], config)
    text = explosion(records, config)
    assert text.startswith("warning: the loss has left its range at iteration 4 and at 1 later evaluations: loss_base is ")
    assert "lower --lr" in text and text.count("\n") == 1 and math.isclose(usual, 0.1909, abs_tol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_a_finite_explosion_is_told_once_and_in_the_report(cli, tmp_path, method):
    extra = ["--method", method, *(["--steps=0"] if method == "asm_loc" else []), *(["--margin=1"] if method == "um" else [])]
    done = cli("main.py", *RUN, "--lr", "1e4" if method == "um" else "1e6", *extra)
    [report] = (tmp_path / "output").glob("report_seed_0.md")
    [warning] = [line for line in report.read_text().splitlines() if line.startswith("warning: ")]
    assert "the loss has left its range at iteration" in warning and done.stdout.count("left its range") == 1
    calm = cli("main.py", *RUN, "--lr", "1e-3", *extra)
    assert "left its range" not in calm.stdout + calm.stderr + report.read_text()


def test_it_is_told_at_the_evaluation_where_it_is_first_seen(cli, capfd):
    cli("main.py", *RUN, "--lr", "1e6")
    assert capfd.readouterr().err.count("warning: the loss has left its range") == 1
