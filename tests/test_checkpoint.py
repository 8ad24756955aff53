"""Checkpoints of the official code and ours load; any other file is refused in a sentence."""

import pickle
from collections import OrderedDict

import pytest
import torch
from conftest import Harmful

from engine.checkpoint import load_file, load_weights, network_weights
from model import BaS_Net
from utils import UserError

OFFICIAL_SHAPES = {  # of the public checkpoint, C = 20
    "filter_module.conv_1.0.weight": (512, 2048, 1),
    "filter_module.conv_1.0.bias": (512,),
    "filter_module.conv_2.0.weight": (1, 512, 1),
    "filter_module.conv_2.0.bias": (1,),
    "cas_module.conv_1.0.weight": (2048, 2048, 3),
    "cas_module.conv_1.0.bias": (2048,),
    "cas_module.conv_2.0.weight": (2048, 2048, 3),
    "cas_module.conv_2.0.bias": (2048,),
    "cas_module.conv_3.0.weight": (21, 2048, 1),
}


def small(**changes) -> BaS_Net:
    return BaS_Net(**({"len_feature": 4, "num_classes": 20, "num_segments": 16, "hidden": 8} | changes))


def test_names_and_shapes_are_the_official_ones():
    assert {key: tuple(value.shape) for key, value in BaS_Net(2048, 20, 750).state_dict().items()} == OFFICIAL_SHAPES


def test_a_plain_state_dict_of_the_official_code_loads(tmp_path):
    theirs, ours = small(), small()
    torch.save(OrderedDict(theirs.state_dict()), tmp_path / "BaSNet_model_best.pkl")
    load_weights(ours, network_weights(load_file(tmp_path / "BaSNet_model_best.pkl")), "", ())
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


def test_weights_saved_by_data_parallel_load(tmp_path):
    theirs, ours = small(), small()
    load_weights(ours, network_weights({f"module.{key}": value for key, value in theirs.state_dict().items()}), "", ())
    assert all(torch.equal(a, b) for a, b in zip(theirs.parameters(), ours.parameters(), strict=True))


def test_our_best_model_is_such_a_file(cli, tmp_path):
    cli("main.py", "--lr", "[0.01]*2", "--seed", "0")
    weights = torch.load(tmp_path / "model" / "BaS_Net_model_seed_0.pkl", weights_only=True)
    assert list(weights) == list(OFFICIAL_SHAPES) and all(isinstance(value, torch.Tensor) for value in weights.values())


@pytest.mark.parametrize(
    "other, expected",
    [
        ({"len_feature": 2}, ["width 2", "gives 4", "--modal"]),
        ({"len_feature": 9}, ["width 9", "gives 4", "--dataset"]),
        ({"hidden": 16}, ["--hidden", "(4, 4, 1)", "(2, 4, 1)"]),
        ({"num_classes": 5}, ["cas_module.conv_3.0.weight", "(6, 8, 1)", "--dataset"]),
        ({"ablation": "base"}, ["filter_module.conv_1.0.weight", "--ablation"]),
        ({"ablation": "baseline"}, ["--ablation"]),
    ],
)
def test_another_network_is_refused_with_the_difference(other, expected):
    with pytest.raises(UserError) as error:
        load_weights(small(), small(**other).state_dict(), "some.pkl", ["ablation"])
    assert [part for part in ["some.pkl", *expected] if part not in str(error.value)] == []


def test_a_network_of_more_modules_is_refused_too():
    with pytest.raises(UserError, match=r"some\.pkl: .* Missing: nothing; unexpected: filter_module\.conv_1\.0\.weight, "):
        load_weights(small(ablation="base"), small().state_dict(), "some.pkl", ["ablation"])


def test_bad_files(tmp_path):
    path = tmp_path / "bad.pkl"
    torch.save(small().state_dict(), path)
    whole = path.read_bytes()
    for content in (b"", b"text", whole[: len(whole) // 2], pickle.dumps(Harmful(tmp_path / "executed")), pickle.dumps([1, 2])):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"bad\.pkl"):
            load_file(path)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match="state dict"):
        load_file(path)
    with pytest.raises(UserError, match="no such checkpoint"):
        load_file(tmp_path / "none.pkl")
    with pytest.raises(UserError):
        load_file(tmp_path)
    for content in ({"network": 5}, {"network": torch.ones(3)}, {}):
        with pytest.raises(UserError, match="another network"):
            load_weights(small(), network_weights(content), path, [])
    with pytest.raises(UserError, match="another network"):
        load_weights(small(), {"fc.weight": torch.ones(1)}, path, [])
    assert not (tmp_path / "executed").exists()
