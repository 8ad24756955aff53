"""Precisions: what each rounds, what it leaves alone, and which a device has."""

import copy
import os
import shutil

import pytest
import torch
from test_resume import records
from test_snippets import outputs_and_gradients, shown

from engine.device import DTYPES, choose_device, choose_precision
from model import BaS_Net
from utils import UserError

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def restored():
    yield
    torch.set_float32_matmul_precision("highest")


def small_network():
    torch.manual_seed(0)
    return BaS_Net(32, 3, 40, hidden=64).train(), shown([20, 40, 7], 40, 32), torch.eye(3)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.2), ("fp16", 0.1)])
def test_half_precisions_round_and_nothing_else(precision, tolerance):
    network, snippets, label = small_network()
    half = copy.deepcopy(network)
    half.dtype = DTYPES[choose_precision(precision, CPU)]
    expected, found = (outputs_and_gradients(n, snippets, label) for n in (network, half))
    differences = {}
    for name, value in found.items():
        assert value.dtype == torch.float32, name
        differences[name] = ((value - expected[name]).norm() / expected[name].norm()).item()
    assert max(differences.values()) < tolerance and differences["supp"] > tolerance / 1000, differences


def test_a_processor_that_does_not_do_what_it_announces(monkeypatch):
    """One whose matrix units fail works without them; one that cannot do it at all is told."""
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr("engine.device.multiplies", lambda _: os.environ.get("ONEDNN_MAX_CPU_ISA") == "AVX512_CORE_FP16")
    assert choose_precision("bf16", CPU) == "bf16"
    monkeypatch.setattr("engine.device.multiplies", lambda _: False)
    with pytest.raises(UserError, match="does not execute it"):
        choose_precision("bf16", CPU)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_half_precision(cli, precision):
    done = cli("main.py", "--seed", "0", "--lr", "[0.01]*4", "--eval_every", "2", "--precision", precision)
    assert f"cpu, {precision}, seed 0" in done.stdout and f"precision {precision}" in done.stdout


def test_what_a_cpu_has():
    assert choose_precision("auto", CPU) == "fp32"
    with pytest.raises(UserError, match="tf32: is a precision of CUDA devices"):
        choose_precision("tf32", CPU)
    assert choose_precision("auto", torch.device("cuda")) == "tf32" and torch.get_float32_matmul_precision() == "high"
    assert torch.backends.cudnn.allow_tf32
    assert choose_precision("fp32", torch.device("cuda")) == "fp32" and torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cudnn.allow_tf32


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_run_computes_the_same(cli, tmp_path):
    run = ["--seed", "0", "--lr", "[0.01]*4", "--eval_every", "2"]
    cli("main.py", *run)
    _, expected = records(tmp_path)
    cli("main.py", *run, "--compile")
    _, found = records(tmp_path)
    assert found["loss_total"] == pytest.approx(expected["loss_total"], rel=1e-5)
    # a detection at a threshold may change an average precision, of four videos by a hundredth
    assert found["mAP"] == pytest.approx(expected["mAP"], abs=0.02)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-4), ("tf32", 5e-3), ("bf16", 0.05)])
@pytest.mark.gpu
def test_a_gpu_computes_what_a_cpu_does(precision, tolerance):
    network, snippets, label = small_network()
    network.cas_module.drop_out.p = 0.0  # devices draw differently
    expected = outputs_and_gradients(copy.deepcopy(network), snippets, label)
    device = choose_device("cuda")
    choose_precision(precision, device)
    network.dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    found = outputs_and_gradients(network.to(device), snippets.to(device), label.to(device))
    for name, value in found.items():
        difference = (value.cpu() - expected[name]).norm() / expected[name].norm()
        assert difference < tolerance, (name, difference)


@pytest.mark.gpu
@pytest.mark.parametrize("flags", [[], ["--compile"], ["--cache=device"], ["--eval_workers=2", "--eval_every=1"]])
def test_a_run_on_a_gpu_and_its_resume(cli, flags):
    run = ["--seed", "0", "--lr", "[0.01]*4", "--eval_every", "2", "--device", "cuda", *flags]
    assert "cuda:0, tf32" in cli("main.py", *run, "--num_iters", "2").stdout
    assert "resuming after iteration 2" in cli("main.py", *run, "--resume").stdout
