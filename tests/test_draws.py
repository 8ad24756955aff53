"""--draws official against a plain re-statement of how the official program consumes the generators of a seed."""

import contextlib
import json
from itertools import chain
from unittest.mock import patch

import numpy as np
import oracles
import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, WIDTH
from test_resume import kept_bytes
from torch import nn
from torch.utils.data import DataLoader, Dataset

import main
import train
from dataset.draws import make_draws
from options import make_config, parse_args
from thumos_features import load_data
from utils import UserError

ITERATIONS, TIMES, HIDDEN, CLASSES = 26, 16, 8, 20
DEVICES = ["cpu", pytest.param("cuda:0", marks=pytest.mark.gpu)]


class PlainVideos(Dataset):
    """A folder's videos; making it seeds all generators once more, and an item of training draws snippet by snippet."""

    def __init__(self, root, subset, seed):
        seed_all(seed)
        self.root, self.subset = root, subset
        self.names = (root / f"split_{subset}.txt").read_text().split()

    def __len__(self):
        return len(self.names)

    def __getitem__(self, index):
        name = self.names[index]
        streams = [np.load(self.root / "features" / self.subset / s / f"{name}.npy") for s in ("rgb", "flow")]
        length = len(streams[0])
        shown = np.arange(TIMES) * length // TIMES
        if self.subset == "train":
            shown = oracles.sample_snippets(length, TIMES, np.random.choice)
        return np.concatenate([stream[shown] for stream in streams], axis=1), name


class PlainNetwork(nn.Module):
    """Both branches on (B, C, T), with torch's own layers."""

    def __init__(self):
        super().__init__()
        quarter, width = HIDDEN // 4, 2 * WIDTH
        self.filter = nn.Sequential(nn.Conv1d(width, quarter, 1), nn.LeakyReLU(), nn.Conv1d(quarter, 1, 1), nn.Sigmoid())
        self.cas = nn.Sequential(
            *(nn.Conv1d(width, HIDDEN, 3, padding=1), nn.LeakyReLU(), nn.Conv1d(HIDDEN, HIDDEN, 3, padding=1), nn.LeakyReLU()),
            *(nn.Dropout(0.7), nn.Conv1d(HIDDEN, CLASSES + 1, 1, bias=False)),
        )

    def forward(self, x_btf):
        x_bft = x_btf.permute(0, 2, 1)
        weight_b1t = self.filter(x_bft)
        scores = []
        for shown in (x_bft, weight_b1t * x_bft):
            cas_bct = self.cas(shown)
            scores.append(cas_bct.sort(dim=2, descending=True).values[:, :, : TIMES // 8].mean(dim=2).softmax(dim=1))
        return *scores, weight_b1t.abs().sum(dim=2).mean()


def seed_all(seed):
    torch.manual_seed(seed)
    np.random.seed(seed)


def official_run(root, seed, batch_size, labels, device="cpu", workers=0):
    """The random numbers and the loss of each iteration of the official loop."""
    seed_all(seed)
    network = PlainNetwork().to(device)
    initial = [parameter.detach().clone() for parameter in network.parameters()]
    loader = DataLoader(PlainVideos(root, "train", seed), batch_size=batch_size, shuffle=True, num_workers=workers)
    test_loader = DataLoader(PlainVideos(root, "test", seed), batch_size=1, shuffle=False, num_workers=workers)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01, weight_decay=5e-4)
    iterator = iter(loader)
    steps = []
    for _ in range(ITERATIONS):
        network.train()
        try:
            features, names = next(iterator)
        except StopIteration:  # quirk B6: the new iterator is forgotten
            features, names = next(iter(loader))
        with masks_drawn() as masks:
            score_base, score_supp, norm = network(features.to(device))
        label = torch.tensor(np.stack([labels[name] for name in names]), device=device)
        total = 1e-4 * norm
        for score, background in ((score_base, 1.0), (score_supp, 0.0)):
            target = torch.cat([label, label.new_full((len(label), 1), background)], dim=1)
            total = total + F.binary_cross_entropy(score, target / target.sum(dim=1, keepdim=True))
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        steps.append((list(names), features, masks, total.item()))
        network.eval()
        for features, _ in test_loader:
            network(features.to(device))
    return initial, steps


@contextlib.contextmanager
def masks_drawn():
    """(B, C, T) the mask of every Dropout in train mode."""
    masks = []

    def look(module, given, out):
        if isinstance(module, nn.Dropout) and module.training:
            assert (given[0] != 0).all()
            kept = out != 0
            masks.append(kept.cpu())

    with nn.modules.module.register_module_forward_hook(look):
        yield masks


@pytest.fixture
def data(tiny):
    """Videos in an order that is not that of their names."""
    names = (tiny / "split_train.txt").read_text().split()
    (tiny / "split_train.txt").write_text("\n".join([*names[3:], *names[:3]]) + "\n")
    return tiny


@pytest.fixture
def our_run(data, places):
    """The random numbers of each iteration of main.py."""

    def run(*flags, device="cpu"):
        steps, initial, real = [], [], train.train_step

        def looked_at(loss, state, batch, *rest):
            if not initial:
                initial.extend(parameter.detach().clone() for parameter in state.network.parameters())
            with masks_drawn() as masks:
                terms = real(loss, state, batch, *rest)
            shown_btf = batch.snippets.dense().transpose(1, 2).cpu()
            steps.append(([v.name for v in batch.videos], shown_btf, masks, terms["loss_total"].item()))
            _ = torch.rand(3), np.random.random(3)  # what others draw between the steps changes nothing
            return terms

        common = [f"--data_path={data}", "--cache_path=none", *TINY, *places, "--quiet", "--draws=official", "--precision=fp32"]
        with patch("train.train_step", looked_at):
            main.train(parse_args([*common, f"--device={device}", f"--lr=[0.01]*{ITERATIONS}", *flags]))
        return initial, steps

    return run


def assert_same_draws(ours, official):
    assert len(ours) == len(official)
    for number, (some, others) in enumerate(zip(ours, official, strict=True)):
        assert some[0] == others[0], f"videos of iteration {number}"
        assert torch.equal(some[1], others[1]), f"snippets of iteration {number}"
        assert len(some[2]) == len(others[2]) == 2
        assert all(map(torch.equal, some[2], others[2])), f"dropout of iteration {number}"


def labels_of(data):
    videos = load_data(make_config(parse_args([f"--data_path={data}", *TINY]))).train
    return {video.name: video.label_c for video in videos}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("seed", "batch_size", "eval_every"), [(0, 2, "1"), (3, 2, "7"), (3, 5, "epoch"), (0, 16, "26")])
def test_the_official_run_of_a_seed(our_run, data, seed, batch_size, eval_every, device):
    """Batches, snippets and masks are equal bit for bit, with and without a short last batch, at any evaluation interval."""
    flags = [f"--seed={seed}", f"--batch_size={batch_size}", f"--eval_every={eval_every}"]
    initial, ours = our_run(*flags, device=device)
    official_initial, official = official_run(data, seed, batch_size, labels_of(data), device)
    assert all(map(torch.equal, initial, official_initial))
    assert_same_draws(ours, official)
    np.testing.assert_allclose([step[3] for step in ours], [step[3] for step in official], rtol=1e-4)


def test_workers_of_the_official_loader_change_its_rows_alone(our_run, data):
    _, ours = our_run("--seed=3", "--batch_size=2")
    _, official = official_run(data, 3, 2, labels_of(data), workers=2)
    for some, others in zip(ours, official, strict=True):
        assert some[0] == others[0] and not torch.equal(some[1], others[1])
    some_masks, others_masks = ([mask for step in steps for mask in step[2]] for steps in (ours, official))
    assert all(map(torch.equal, some_masks, others_masks))


def test_resumed(our_run, tmp_path):
    """Once inside the first pass and twice after it."""
    flags = ["--seed=3", "--batch_size=2", "--eval_every=4"]
    _, straight = our_run(*flags)
    files = kept_bytes(tmp_path)
    parts = [our_run(*flags, f"--num_iters={end}", *["--resume"] * (end > 2))[1] for end in (2, 9, 11, ITERATIONS)]
    assert [len(part) for part in parts] == [2, 7, 2, 15]
    assert_same_draws(list(chain(*parts)), straight)
    assert kept_bytes(tmp_path) == files


def test_shuffled_passes_with_b6_repaired(our_run, data):
    _, steps = our_run("--seed=0", "--batch_size=2", "--fix=B6", "--num_iters=9")
    assert [len(step[0]) for step in steps] == [2, 2, 1] * 3
    passes = [list(chain(*(step[0] for step in steps[i : i + 3]))) for i in (0, 3, 6)]
    assert all(sorted(shuffled) == sorted(passes[0]) for shuffled in passes) and passes[0] != passes[1] != passes[2]


def test_ours_are_others_and_the_checkpoint_knows(our_run, tmp_path):
    _, official = our_run("--seed=0", "--num_iters=2")
    with pytest.raises(UserError, match="draws 'official' there, 'ours' here"):
        our_run("--seed=0", "--resume", "--draws=ours")
    _, ours = our_run("--seed=0", "--num_iters=2", "--draws=ours")
    assert not torch.equal(official[0][2][0], ours[0][2][0])
    assert json.loads((tmp_path / "output" / "config.json").read_text())["draws"] == "ours"


@pytest.mark.parametrize(
    ("flags", "processes", "found"),
    [(["--method=um"], 1, "with --method um"), (["--compile"], 1, "basnet --compile"), ([], 2, "in 2 processes")],
)
def test_where_there_is_no_official_order_to_follow(flags, processes, found):
    with pytest.raises(UserError, match=f"--draws official .*{found}"):
        config = make_config(parse_args(["--draws=official", *TINY, *flags]), training=False)
        make_draws(config, 0, torch.device("cpu"), processes)
