"""BackTAL against the official code's values and against its plain form (tests/oracle_backtal.py)."""

import zlib
from dataclasses import replace

import numpy as np
import oracle_backtal
import pytest
import torch
from conftest import ROOT
from torch.utils._python_dispatch import TorchDispatchMode

from affinity import affinities, gated_branches, gated_convolution, terms
from config import make_config
from methods.backtal import BackTALLoss, BackTALNetwork, Output, clicked_rows
from options import parse_args

PRESENT = {
    "th": ((4, 7), (2,), (19,)),
    "an": ((11,), (99,), (0, 50), (7,)),
    "ha": ((150,), (3,), (42, 199)),
}
SIZES = {"th": (101, 25, 750, 20, (5, 3, 0)), "an": (102, 10, 100, 100, (4, 1, 2, 0)), "ha": (103, 20, 200, 200, (6, 0, 2))}
DATASETS = {"th": "thumos14", "an": "activitynet1.2", "ha": "hacs"}
TERMS = ("base", "supp", "norm", "click", "sep", "emb", "total")


@pytest.fixture(scope="module")
def golden():
    """Values of the official code (docs/backtal.md, section 8 says how they came about)."""
    with np.load(ROOT / "tests" / "golden" / "backtal.npz") as file:
        return dict(file)


def config_of(dataset, *flags):
    """Published settings; what must be found in files is given."""
    args = parse_args(["--method", "backtal", "--dataset", "thumos14", "--clicks", "simulated", *flags])
    wanted = parse_args(["--method", "backtal", "--dataset", dataset])
    own = {name: getattr(wanted, name) for name in ("num_segments", "topk", "sep_topk", "sep_weight")}
    return replace(make_config(args), **own)


def golden_network(golden, dataset, dropout=0.7):
    seed, _, times, classes, _ = SIZES[dataset]
    share = 0.125 if dataset == "th" else 0.6
    with torch.device("meta"):
        network = BackTALNetwork(2048, classes, times, dropout=dropout, topk=share)
    network = network.to_empty(device="cpu")
    scale = dict(zip(golden["weights_keys"], golden["weights_scale"], strict=True))
    weights = {
        key: torch.from_numpy(
            np.random.default_rng(zlib.crc32(key.encode())).standard_normal(value.shape).astype(np.float32)
            * np.float32(scale[key])
        )
        for key, value in network.state_dict().items()
    }
    network.load_state_dict(weights)
    return network


def golden_batch(golden, dataset):
    seed, block, times, classes, counts = SIZES[dataset]
    r = np.random.default_rng(seed)
    blocks = r.standard_normal((len(counts), 2048, times // block))
    noise = r.standard_normal((len(counts), 2048, times))
    x = (np.repeat(blocks, block, axis=2) + noise).astype(np.float32)
    np.testing.assert_allclose(x.astype(np.float64).sum(), golden[f"{dataset}_x_check"][0], rtol=1e-9)
    click = np.zeros((len(counts), times), dtype=np.float32)
    for b, count in enumerate(counts):
        click[b, r.permutation(times)[:count]] = 1
    np.testing.assert_array_equal(np.argwhere(click), golden[f"{dataset}_click_idx"])
    label = np.zeros((len(counts), classes), dtype=np.float32)
    for b, present in enumerate(PRESENT[dataset]):
        label[b, list(present)] = 1
    return torch.from_numpy(x).transpose(1, 2).contiguous(), torch.from_numpy(label), torch.from_numpy(click)


def near(found, expected, share, name=""):
    """Within a share of the array's largest value."""
    found = found.detach().numpy()
    assert found.shape == expected.shape, name
    np.testing.assert_allclose(found, expected, atol=share * np.abs(expected).max(), rtol=0, err_msg=name)


def losses_of(terms_by_name):
    return [terms_by_name[f"loss_{name}"].item() for name in TERMS]


# -------------------------------------------------------------------------------------------------------- official values


@pytest.mark.parametrize("dataset", SIZES)
def test_forward_losses_and_gradients(golden, dataset):
    x, label, click = golden_batch(golden, dataset)
    network = golden_network(golden, dataset).eval()
    output = network(x)
    with torch.no_grad():
        alone = network(x, localized_only=True)
    np.testing.assert_allclose(alone.cas_kbtc[0].numpy(), output.cas_kbtc[1].detach().numpy(), atol=1e-5)
    stored = {key.removeprefix(f"{dataset}_"): value for key, value in golden.items() if key.startswith(f"{dataset}_")}
    step = x.shape[1] // 50
    for name, value in {
        "score_base": output.score_kbc[0],
        "score_supp_logit": output.score_kbc[1],
        "score_supp_softmax": output.score_kbc[1].softmax(1),
        "fore_weights": output.fore_bt[:, None],
        "feat1_supp_mag": alone.magnitude_bt,
        "cas_base_b0": output.cas_kbtc[0, 0, ::step, :21].T,
        "cas_supp_b0": output.cas_kbtc[1, 0, ::step, :21].T,
        "cas_base_b1": output.cas_kbtc[0, 1, ::step, -21:].T,
        "cas_supp_b1": output.cas_kbtc[1, 1, ::step, -21:].T,
        "embedding_b0": output.embedding_bte[0, ::step].T,
    }.items():
        near(value, stored[name], 2e-6, name)
    found = BackTALLoss(config_of(DATASETS[dataset]))(output, label, click)
    np.testing.assert_allclose(losses_of(found), stored["loss_f32"], rtol=1e-6)
    if dataset == "th":
        found["loss_total"].backward()
        for key, parameter in network.named_parameters():
            flat, expected = parameter.grad.flatten(), stored[f"grad|{key}"]
            np.testing.assert_allclose(flat.double().norm(), expected[0], rtol=5e-6, err_msg=key)
            ends = torch.cat([flat[:4], flat[-4:]]) if len(flat) > 1 else torch.cat([flat, flat])
            np.testing.assert_allclose(ends, expected[1:], rtol=1e-4, atol=1e-6 * expected[0], err_msg=key)
