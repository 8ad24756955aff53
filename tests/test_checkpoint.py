"""Checkpoints of the official code and ours load; any other file is refused in a sentence."""

import os
import pickle
import zipfile
from collections import OrderedDict

import pytest
import torch
from conftest import TINY, Harmful

from dataset.draws import make_draws
from engine.checkpoint import TrainingState, load_file, load_network, load_weights, network_weights
from methods.base import build_method
from model import BaS_Net
from options import make_config, parse_args
from thumos_features import fingerprint, load_data
from train import make_optimizer
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
    with pytest.raises(UserError, match=r"some\.pkl: .* Missing: nothing; unexpected: filter_module\.conv_1\.0\.weight"):
        load_weights(small(ablation="base"), small().state_dict(), "some.pkl", ["ablation"])


def test_a_file_that_unpacks_to_more_than_its_size_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(10**6)}, tmp_path / "plain.pkl")
    with (
        zipfile.ZipFile(tmp_path / "plain.pkl") as plain,
        zipfile.ZipFile(tmp_path / "packed.pkl", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    assert (tmp_path / "packed.pkl").stat().st_size < 10**5
    with pytest.raises(UserError, match=r"packed\.pkl.*compressed"):
        load_file(tmp_path / "packed.pkl")


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
    with pytest.raises(UserError, match="no such file; expected a checkpoint"):
        load_file(tmp_path / "none.pkl")
    with pytest.raises(UserError, match="is a folder"):
        load_file(tmp_path)
    os.mkfifo(tmp_path / "pipe.pkl")
    with pytest.raises(UserError, match="is a pipe"):
        load_file(tmp_path / "pipe.pkl")
    for content in ({"network": 5}, {"network": torch.ones(3)}, {}):
        with pytest.raises(UserError, match="another network"):
            load_weights(small(), network_weights(content), path, [])
    with pytest.raises(UserError, match="another network"):
        load_weights(small(), {"fc.weight": torch.ones(1)}, path, [])
    assert not (tmp_path / "executed").exists()


# ------------------------------------------------------------------------------------------------- weights of other kinds


def with_weight(change, key="cas_module.conv_1.0.weight"):
    weights = small().state_dict()
    return weights | {key: change(weights[key])}


@pytest.mark.parametrize(
    "change, found",
    [
        (lambda w: (100 * w).to(torch.int8), "a tensor of int8 (8, 4, 3)"),
        (lambda w: w > 0, "a tensor of bool (8, 4, 3)"),
        (lambda w: w.to(torch.complex64), "a tensor of complex64"),
        (lambda w: w.to_sparse(), "sparse"),
        (lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8), "quantized"),
        (lambda w: w.to("meta"), "(meta)"),
        (lambda w: torch.nested.nested_tensor([w[0], w[1, :1]]), "nested"),
        (lambda w: w * torch.nan, "not finite as float32"),
        (lambda w: w / 0, "not finite as float32"),
        (lambda w: 1e300 * w.double(), "not finite as float32"),
        (lambda w: w.tolist(), "a list of 8"),
        (lambda w: None, "is None"),
    ],
)
def test_weights_that_are_no_finite_floats_are_refused(change, found, tmp_path):
    network = small()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    torch.save(with_weight(change), tmp_path / "some.pkl")
    with pytest.raises(UserError) as error:
        load_weights(network, network_weights(load_file(tmp_path / "some.pkl")), tmp_path / "some.pkl", [])
    message = str(error.value)
    expected = ("some.pkl", "cas_module.conv_1.0.weight", found, "expected", "floating-point numbers (8, 4, 3)", "--model_file")
    assert [part for part in expected if part not in message] == []
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floats_of_another_width_are_converted(dtype):
    theirs, ours = {key: value.to(dtype) for key, value in small().state_dict().items()}, small()
    load_weights(ours, theirs, "", [])
    assert all(torch.equal(theirs[key].float(), value) for key, value in ours.state_dict().items())


def test_two_weights_for_one_name_are_refused():
    weights = small().state_dict()
    twice = weights | {f"module.{key}": 2 * value for key, value in weights.items()}
    with pytest.raises(UserError, match="another network"):
        load_weights(small(), network_weights(twice), "some.pkl", [])


@pytest.mark.parametrize("settings", [None, [1], {"modal": torch.ones(3)}, {"repaired": [5]}, {"method": {"a": 1}}])
def test_damaged_settings_of_a_model_are_named(settings, tmp_path, tiny):
    config = make_config(parse_args([f"--data_path={tiny}", *TINY]))
    method = build_method(config)
    torch.save({"network": method.network.state_dict(), "config": settings}, tmp_path / "some.ckpt")
    with pytest.raises(UserError, match=r"some\.ckpt: config"):
        load_network(method.network, tmp_path / "some.ckpt", config)


def test_damaged_settings_beside_a_model_are_named(tmp_path, tiny):
    config = make_config(parse_args([f"--data_path={tiny}", *TINY]))
    method = build_method(config)
    torch.save(method.network.state_dict(), tmp_path / "some.pth")
    (tmp_path / "some.json").write_text('{"method": "basnet", "repaired": [5]}')
    with pytest.raises(UserError, match=r"some\.json: repaired\.0 is 5; expected text"):
        load_network(method.network, tmp_path / "some.pth", config)
    (tmp_path / "some.json").write_text("[" * 100_000)
    load_network(method.network, tmp_path / "some.pth", config)


# ------------------------------------------------------------------------------------------- checkpoints to resume from

RUNS = {
    "basnet": ["--draws", "official"],
    "asm_loc": ["--method", "asm_loc", "--steps", "1", "--step_iters", "2"],
}
NAN, INF, FOUR = float("nan"), float("inf"), torch.ones(4)
FIRST = ["optimizer", "state", 0]
DAMAGE: dict[str, list[tuple[list, list]]] = {  # places, and what they cannot hold
    "basnet": [
        (["seed"], [-1, 2**32, "0", None, NAN]),
        (["data"], [5, None]),
        (["run"], [FOUR, None]),
        (["iteration"], [-1, 2**63, "4", 4.0, NAN, None, FOUR]),
        (["step"], [1, -1, 2**63, "0", NAN]),
        (["losses"], [None, [], {}, {"loss_total": NAN}, {"loss_total": "1"}, {"loss_total": 1.0, 5: 1.0}]),
        (["records"], [None, {}, [5], [{}]]),
        (["records", 0, "choice"], [None, NAN, "0.5", 7.0, FOUR]),
        (["records", 0, "mAP"], [{}, {"0.1": 0.5}, None]),
        (["records", 0, "iteration"], [-1, 2**63, 9, "2"]),
        (["records", 0, "lost"], [{"B1": "x"}, None]),
        (["known"], [None, {"videos": []}, FOUR]),
        (["contents"], [None, [], {"nobody": 1}]),
        (["contents", "video_train_0"], [-1, 2**32, None, 1.5]),
        (["config"], [None, [], {}, "x"]),
        (["config", "alpha"], [FOUR, {}, [[1]], 10**400]),
        (["learning_rates"], [None, [], [0.01], [NAN] * 4, ["0.01"] * 4, FOUR]),
        (["network"], [None, FOUR, {}, []]),
        (["network", "cas_module.conv_1.0.weight"], [None, FOUR]),
        (["optimizer"], [None, [], {}, FOUR]),
        (["optimizer", "state"], [None, [], {}, {9: {}}, {"0": {}}]),
        (FIRST, [None, {}, {"step": FOUR[0]}]),
        ([*FIRST, "step"], [0, FOUR, torch.tensor(NAN), torch.tensor(1e9), torch.tensor(-1.0), torch.tensor(2)]),
        ([*FIRST, "exp_avg"], [None, FOUR, torch.ones(2, 4, 1).half(), torch.full((2, 4, 1), NAN)]),
        ([*FIRST, "exp_avg_sq"], [None, -torch.ones(2, 4, 1), torch.full((2, 4, 1), NAN)]),
        (["optimizer", "param_groups"], [None, [], {}, [5], [{}]]),
        (["optimizer", "param_groups", 0, "params"], [None, [0], [8, 7, 6, 5, 4, 3, 2, 1, 0], FOUR]),
        (["optimizer", "param_groups", 0, "betas"], [None, (0.5, 0.5), FOUR]),
        (["optimizer", "param_groups", 0, "weight_decay"], [1.0, "x"]),
        (["scaler"], [None, [], {"scale": 1.0}]),
        (["draws"], [None, {}, []]),
        (["draws", "numpy"], [None, FOUR, torch.full((625,), -1), torch.full((625,), 625)]),
        (["draws", "torch"], [None, [], [FOUR], [torch.zeros(5056, dtype=torch.uint8)]]),
        (["draws", "order"], [None, FOUR, torch.tensor([0, 0, 1, 2, 3]), torch.arange(4), torch.arange(1).expand(10**12)]),
        (["best_model"], [None, {}, FOUR]),
        (["best_model", "record", "choice"], [None, NAN]),
        (["best_model", "weights"], [None, {}, {"a": FOUR}]),
        (["best_model", "weights", "cas_module.conv_1.0.bias"], [FOUR, torch.full((8,), INF), torch.ones(8, dtype=torch.int8)]),
        (["best_model", "found"], [None, {}, {"videos": []}]),
        (["best_model", "found", "videos"], [None, ["x"], []]),
        (["best_model", "found", "counts"], [None, FOUR, torch.full((4,), -1), torch.full((4,), 10**6)]),
        (["best_model", "found", "classes"], [None, FOUR, torch.full((10**6,), 20), torch.tensor([-1])]),
        (["best_model", "found", "scores"], [None, torch.full((3,), NAN, dtype=torch.float64)]),
        (["best_model", "found", "segments"], [None, torch.zeros(7, 2, dtype=torch.float64)]),
    ],
    "asm_loc": [
        (["step"], [0, 2, -1, "1"]),
        (["network", "step"], [torch.tensor(-1), torch.tensor(0.5), FOUR, None]),
        (["known"], [None, {}, {"videos": []}]),
        (["known", "videos"], [None, ["x"], []]),
        (["known", "scores"], [torch.nn.Parameter(torch.zeros(0, dtype=torch.float64))]),
        (["known", "counts"], [None, FOUR, torch.full((9,), -1), torch.full((9,), 10**6)]),
        (["known", "classes"], [None, FOUR, torch.tensor([20]), torch.tensor([-1])]),
        (["known", "segments"], [None, FOUR, torch.full((2, 2), NAN, dtype=torch.float64)]),
        (["draws"], [None, {"numpy": FOUR}]),
    ],
}


@pytest.mark.parametrize("method", RUNS)
def test_every_damaged_field_of_a_checkpoint_is_named(method, cli, tmp_path, tiny):
    flags = ["--seed", "0", "--lr", "[0.01]*4", "--eval_every", "2", *RUNS[method]]
    cli("main.py", *flags)
    [path] = (tmp_path / "model").glob("*_last.ckpt")
    config = make_config(parse_args([f"--data_path={tiny}", *TINY, *flags]))
    data, built = load_data(config), build_method(config)
    marks, scaler = fingerprint([*data.train, *data.test], data.truth), torch.amp.GradScaler("cpu", enabled=False)

    def restore():
        draws = make_draws(config, 0, torch.device("cpu"), 1)
        optimizer = make_optimizer(built.network, config)
        state = TrainingState(built.network, optimizer, scaler, 0, marks, draws)
        state.restore(path, load_file(path), built, data.train, data.test)

    restore()
    whole, wrong = path.read_bytes(), []
    for place, values in DAMAGE[method]:
        for value in [*values, KeyError]:
            path.write_bytes(whole)
            content = torch.load(path)
            where = content
            for key in place[:-1]:
                where = where[key]
            where[place[-1]] = value
            if value is KeyError:
                del where[place[-1]]
            torch.save(content, path)
            if value is KeyError and place in OPTIONAL:
                continue
            try:
                restore()
                message = "accepted"
            except UserError as error:
                message = str(error)
            own = [str(key) for key in place] + ["lacks"]
            known = any(part in message for part in own) or "other settings" in message or "holds weights only" in message
            if not (known and path.name in message and len(message) < 2000):
                wrong.append(f"{place} {value}: {message}")
    assert not wrong, "\n".join(wrong)


OPTIONAL = [
    ["config", "alpha"],
    ["contents", "video_train_0"],
    FIRST,
    ["optimizer", "param_groups", 0, "betas"],
    ["optimizer", "param_groups", 0, "weight_decay"],
]


def test_a_checkpoint_whose_bytes_have_changed_is_refused(tmp_path):
    path = tmp_path / "some.pkl"
    torch.save(small().state_dict(), path)
    content = bytearray(path.read_bytes())
    place = content.index(small_bytes := next(iter(torch.load(path).values())).numpy().tobytes())
    content[place + len(small_bytes) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"some\.pkl: is not a readable checkpoint \(the checksum of .* is wrong\)"):
        load_file(path)
