"""What a researcher changes in a network takes effect: each edit on a copy of its file, beside that copy on torch's layers."""

import types
from dataclasses import replace

import numpy as np
import oracle_asm_loc
import oracle_backtal
import pytest
import torch
from conftest import ROOT
from test_snippets import shown

from fast import products
from fast.attention import Between, Inside
from fast.conv import Conv1d
from fast.gated import GatedConv1d
from fast.snippets import Snippets

FILES = {
    "basnet": "model.py",
    "um": "methods/um.py",
    "backtal": "methods/backtal.py",
    "asm_loc": "methods/asm_loc/network.py",
}
LEAKY, LEAKY_ATTRIBUTE = "nn.LeakyReLU()", "self.lrelu = nn.LeakyReLU()"
BACKTAL_SECOND = "self.conv_2(first.flatten(0, 1), gates"
ASM_RELU = "padding=1), nn.ReLU()]"
UM_CONV = "Conv1d(len_feature, hidden, 3, padding=1), nn.ReLU())"
WIDE = "nn.Conv1d(len_feature, hidden, 5, padding=4, dilation=2)"
AGAIN = "Conv1d(hidden, hidden, 3, padding=1)"
EDITS = {  # what stands in a file, and what a researcher writes there
    "basnet": {
        "GELU": [(LEAKY, "nn.GELU()")],
        "slope": [(LEAKY, "nn.LeakyReLU(0.2)")],
        "in place": [(LEAKY, "nn.ReLU6(inplace=True)")],
        "Softplus filter": [("nn.Sigmoid()", "nn.Softplus()")],
        "bias in conv_3": [("Conv1d(hidden, num_classes, 1, bias=False)", "Conv1d(hidden, num_classes, 1)")],
        "kernel 5, dilation 2": [("Conv1d(len_feature, hidden, 3, padding=1)", WIDE)],
        "kernel 5 in conv_2": [("Conv1d(hidden, hidden, 3, padding=1)", "nn.Conv1d(hidden, hidden, 5, padding=4, dilation=2)")],
        "a wide filter": [("Conv1d(len_feature, hidden, 1)", "nn.Conv1d(len_feature, hidden, 5, padding=2)")],
        "BatchNorm": [
            (
                "self.conv_2 = nn.Sequential(Conv1d(hidden, hidden,",
                "self.conv_2 = nn.Sequential(nn.BatchNorm1d(hidden), Conv1d(hidden, hidden,",
            )
        ],
        "BatchNorm of the input": [
            (
                "self.conv_1 = nn.Sequential(Conv1d(len_feature, hidden, 3",
                "self.conv_1 = nn.Sequential(nn.BatchNorm1d(len_feature), Conv1d(len_feature, hidden, 3",
            )
        ],
        "one more layer": [
            (
                "self.drop_out = Dropout(dropout)",
                f"self.more = nn.Sequential({AGAIN}, nn.LeakyReLU())\n        self.drop_out = Dropout(dropout)",
            ),
            ("hidden = self.conv_2(self.conv_1(x))", "hidden = self.more(self.conv_2(self.conv_1(x)))"),
        ],
        "other weights": [("weights * x", "(1 - weights) * x")],
        "a weighted sum": [("self.cas_module(weights * x)", "self.cas_module(x + weights * x)")],
    },
    "um": {
        "GELU": [(UM_CONV, "Conv1d(len_feature, hidden, 3, padding=1), nn.GELU())")],
        "slope": [("nn.ReLU()", "nn.LeakyReLU(0.2)")],
        "bias in the classifier": [("num_classes, 1, bias=False", "num_classes, 1")],
        "kernel 5, dilation 2": [("Conv1d(len_feature, hidden, 3, padding=1)", WIDE)],
        "BatchNorm": [(UM_CONV, "Conv1d(len_feature, hidden, 3, padding=1), nn.BatchNorm1d(hidden), nn.ReLU())")],
        "one more layer": [
            (UM_CONV, "Conv1d(len_feature, hidden, 3, padding=1), nn.ReLU(), Conv1d(hidden, hidden, 3, padding=1), nn.ReLU())")
        ],
    },
    "backtal": {
        "GELU": [(LEAKY_ATTRIBUTE, "self.lrelu = nn.GELU()")],
        "slope": [(LEAKY_ATTRIBUTE, "self.lrelu = nn.LeakyReLU(0.2)")],
        "in place": [(LEAKY_ATTRIBUTE, "self.lrelu = nn.ReLU6(inplace=True)")],
        "bias in the classifier": [("num_classes + 1, 1, bias=False", "num_classes + 1, 1")],
        "bias in a gated layer": [
            ("GatedConv1d(hidden, hidden, 3, padding=1, bias=False,", "GatedConv1d(hidden, hidden, 3, padding=1,")
        ],
        "kernel 5, dilation 2": [("self.conv_1 = Conv1d(len_feature, hidden, 3, padding=1)", f"self.conv_1 = {WIDE}")],
        "BatchNorm": [
            ("self.conv_2 = GatedConv1d(", "self.bn = nn.BatchNorm1d(hidden)\n        self.conv_2 = GatedConv1d("),
            (BACKTAL_SECOND, "self.conv_2(self.bn(first.flatten(0, 1)), gates"),
        ],
        "one more layer": [
            (
                "self.conv_2 = GatedConv1d(",
                "self.more = GatedConv1d(hidden, hidden, 3, padding=1, layout=layout)\n        self.conv_2 = GatedConv1d(",
            ),
            (
                "second = self.lrelu(",
                "gates_again = gates_bt3.repeat(len(weight_kbt), 1, 1)\n        "
                "first = self.lrelu(self.more(first.flatten(0, 1), gates_again)).unflatten(0, first.shape[:2])\n        "
                "second = self.lrelu(",
            ),
        ],
    },
    "asm_loc": {
        "GELU": [(ASM_RELU, "padding=1), nn.GELU()]")],
        "slope": [(ASM_RELU, "padding=1), nn.LeakyReLU(0.2)]")],
        "no bias in the classifier": [("nn.Linear(hidden, num_classes + 1)", "nn.Linear(hidden, num_classes + 1, bias=False)")],
        "no bias": [("self.att_branch = Conv1d(hidden, 2, 1)", "self.att_branch = Conv1d(hidden, 2, 1, bias=False)")],
        "kernel 5, dilation 2": [("Conv1d(len_feature, hidden, 3, padding=1)", WIDE)],
        "BatchNorm": [(ASM_RELU, "padding=1), nn.BatchNorm1d(hidden), nn.ReLU()]")],
        "one more layer": [(ASM_RELU, "padding=1), nn.ReLU(), Conv1d(hidden, hidden, 3, padding=1), nn.ReLU()]")],
    },
}


class PlainGated(torch.nn.Conv1d):
    """A plain gated layer, one weighting at a time."""

    def __init__(self, *args, layout, **kwargs):
        super().__init__(*args, **kwargs)
        self.layout = layout

    def forward(self, x, gates_bt3, weight_kbt=None):
        if weight_kbt is not None:
            return torch.stack([self(x * weight_bt[:, None], gates_bt3) for weight_bt in weight_kbt])
        out = oracle_backtal.gated_convolution(x, self.weight, gates_bt3.transpose(1, 2), self.layout)
        return out if self.bias is None else out + self.bias[:, None]


class KeptBoxes(tuple):
    """Replaces `Places`."""

    def to(self, _device):
        return self


class PlainInside(Inside):
    def forward(self, x, places):
        member_btn = oracle_asm_loc.members(places, x.shape[2])[0]
        return x + oracle_asm_loc.inside(self, x.transpose(1, 2), member_btn).transpose(1, 2)


class PlainBetween(Between):
    def forward(self, x, places):
        return x + oracle_asm_loc.between(self, x.transpose(1, 2), *oracle_asm_loc.members(places, x.shape[2])).transpose(1, 2)


def network_of(method, edits, plain):
    """The network that a copy of a method's file makes, on our layers or on plain ones."""
    source = (ROOT / FILES[method]).read_text()
    for stands, written in edits:
        assert stands in source, stands
        source = source.replace(stands, written)
    copy = types.ModuleType("edited")
    exec(source, copy.__dict__)
    if plain:
        copy.find_places = lambda boxes, _: KeptBoxes(boxes)
        for name, layer in {
            "Conv1d": torch.nn.Conv1d,
            "GatedConv1d": PlainGated,
            "Inside": PlainInside,
            "Between": PlainBetween,
        }.items():
            copy.__dict__.update({name: layer} if name in copy.__dict__ else {})
    torch.manual_seed(0)
    network = made(copy, method)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)  # ASM-Loc's are zero at first, and so are the gradients behind them
    return network


def made(copy, method):
    match method:
        case "basnet":
            return copy.BaS_Net(6, 3, 12, hidden=8, dropout=0.0)
        case "um":
            from test_um import config_of

            return copy.UMNetwork(config_of("--len_feature=6", "--hidden=8", "--dropout=0", "--num_segments=12", classes=3))
        case "backtal":
            return copy.BackTALNetwork(6, 3, 12, hidden=8, dropout=0.0)
        case "asm_loc":
            return copy.ASMNet(6, 3, 8, True, (8, 3), 0.0)


def computed(network, x):
    """All outputs, and all gradients of their sum with fixed weights."""
    outputs = [part for part in network.train()(x) if part is not None]
    random = torch.Generator().manual_seed(1)
    sum((part * torch.rand(part.shape, generator=random)).sum() for part in outputs if part.requires_grad).backward()
    return [part.detach() for part in outputs], {name: weight.grad for name, weight in network.named_parameters()}


@pytest.mark.parametrize(("method", "edit"), [(method, edit) for method in EDITS for edit in ["none", *EDITS[method]]])
def test_an_edit_takes_effect_as_on_torchs_layers(method, edit, products_by):
    x = shown([4, 12, 7], 12, 6)
    if method == "asm_loc":
        x = with_boxes(x)
    edits = EDITS[method].get(edit, [])
    ours, plain = (network_of(method, edits, plain) for plain in (False, True))
    assert ours.state_dict().keys() == plain.state_dict().keys()
    (found, gradients), (expected, expected_gradients) = computed(ours, x), computed(plain, x)
    for ours_part, plain_part in zip(found, expected, strict=True):
        torch.testing.assert_close(ours_part, plain_part, rtol=1e-4, atol=1e-5)
    for name, gradient in gradients.items():
        if name.endswith("conv_out.bias"):  # a batch norm takes it away; torch's gradient is rounding
            assert gradient.abs().max() == 0
            continue
        largest = expected_gradients[name].abs().max().item()
        torch.testing.assert_close(gradient, expected_gradients[name], rtol=1e-3, atol=1e-4 * max(largest, 0.1), msg=name)
    if edits:
        before, _ = computed(network_of(method, [], plain=False), x)
        assert not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(found, before, strict=True)), "it takes effect"


def with_boxes(x):
    from dataclasses import replace

    return replace(x, boxes=tuple(np.array(own, dtype=np.int64).reshape(-1, 2) for own in ([(1, 3), (2, 6)], [], [(0, 11)])))


@pytest.mark.parametrize("layer", [Conv1d, GatedConv1d])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 5, "padding": 2},
        {"kernel_size": 3, "padding": 2, "dilation": 2},
        {"kernel_size": 3},
        {"kernel_size": 1, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 3, "padding": 1, "groups": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    ],
)
def test_what_a_fast_layer_does_not_compute_is_refused(layer, settings):
    with pytest.raises(NotImplementedError, match=r"Use torch\.nn\.Conv1d for others"):
        layer(4, 6, **settings)


def test_a_fast_layer_is_a_layer_of_torch():
    torch.manual_seed(0)
    theirs = torch.nn.Conv1d(4, 6, 3, padding="same")
    torch.manual_seed(0)
    ours = Conv1d(4, 6, 3, padding="same")
    assert isinstance(ours, torch.nn.Conv1d) and repr(ours) == repr(theirs)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), theirs.state_dict().values(), strict=True))
    x = torch.rand(2, 4, 9)
    torch.testing.assert_close(ours(x), theirs(x))


def gradient_of(layer, x):
    layer.weight.grad = None
    layer(x).square().sum().backward()
    return layer.weight.grad


def test_shared_products_are_those_of_the_weights_now(products_by):
    """Between two calls with one batch, gradients are switched on, and weights are changed or replaced."""
    x = Snippets.of(torch.rand(2, 9, 4))
    layer, plain = Conv1d(4, 6, 3, padding=1), torch.nn.Conv1d(4, 6, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    with torch.no_grad():
        layer(x)
    torch.testing.assert_close(gradient_of(layer, x), gradient_of(plain, x.dense()))
    with torch.no_grad():
        layer.weight.mul_(2), plain.weight.mul_(2)
    torch.testing.assert_close(layer(x), plain(x.dense()))
    layer.requires_grad_(False)
    layer(x)
    layer.requires_grad_(True)
    torch.testing.assert_close(gradient_of(layer, x), gradient_of(plain, x.dense()))
    weights = {name: value + 1 for name, value in plain.state_dict().items()}
    found, expected = (torch.func.functional_call(net, weights, (given,)) for net, given in ((layer, x), (plain, x.dense())))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("kernel", [1, 3])
def test_products_are_found_at_the_times_of_the_index_now(kernel, size_of_tiny):
    """Between two calls, a batch gets another index, or its index other values."""
    layer, x = Conv1d(4, 6, kernel, padding=kernel // 2), Snippets.of(torch.rand(2, 9, 4))
    plain = torch.nn.Conv1d(4, 6, kernel, padding=kernel // 2)
    plain.load_state_dict(layer.state_dict())
    layer(x)
    for index_bt in (torch.arange(18).view(2, 9) // 2, torch.arange(6).view(2, 3)):
        other = replace(x, index_bt=index_bt)
        torch.testing.assert_close(gradient_of(layer, other), gradient_of(plain, other.dense()))
    with torch.no_grad():
        layer(x)
        x.index_bt.div_(2, rounding_mode="floor")
    torch.testing.assert_close(layer(x), plain(x.dense()))
    with torch.inference_mode():
        given = Snippets.of(torch.rand(2, 9, 4))
        torch.testing.assert_close(layer(given), plain(given.dense()))


@pytest.mark.parametrize("name", ["mm", "conv"])
def test_what_torch_does_of_itself(name):
    """Autocast, single videos, features of another width or kind, and half precision."""
    layer, plain = Conv1d(4, 6, 3, padding=1), torch.nn.Conv1d(4, 6, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    x = torch.rand(2, 4, 9)
    with products.only(name):
        torch.testing.assert_close(layer(x[0]), plain(x[0]))
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == plain(x).dtype == torch.bfloat16
            torch.testing.assert_close(layer(x), plain(x))
        torch.testing.assert_close(layer(x.bfloat16()).float(), plain(x), rtol=0.02, atol=0.02)
        for wrong in (torch.ones(2, 4, 9, dtype=torch.long), torch.rand(2, 5, 9)):
            with pytest.raises(RuntimeError):
                layer(wrong)


def test_a_function_in_place_leaves_the_features_as_they_are():
    x = shown([12, 12], 12, 6)
    joined = Snippets.of(x)
    before = joined.table().clone()
    assert (torch.nn.functional.relu(joined, inplace=True) >= 0).all() and (before < 0).any()
    assert torch.equal(joined.table(), before)


def test_snippets_are_a_tensor_to_all_but_the_fast_layers():
    x = shown([4, 12], 12, 6)
    dense = x.dense()
    assert x.shape == dense.shape == (2, 6, 12)
    assert torch.equal(torch.nn.functional.gelu(x), torch.nn.functional.gelu(dense))
    assert torch.equal(torch.cat([x, dense], dim=1), torch.cat([dense, dense], dim=1))
    assert torch.equal(x.mean(dim=2), dense.mean(dim=2)) and torch.equal(2 * x, 2 * dense) and torch.equal(x + 1, dense + 1)
    weight = torch.rand(2, 1, 12)
    for weighted in (weight * x, x * weight, torch.mul(weight, x)):
        assert isinstance(weighted, type(x)) and torch.equal(weighted.dense(), weight * dense)
    twice = weight * (weight * x)
    torch.testing.assert_close(twice.dense(), weight * weight * dense)
    full = torch.rand(2, 6, 12)
    assert torch.equal(full * x, full * dense) and torch.equal(x * full, full * dense)
    assert torch.equal(x == dense, dense == dense) and torch.equal(x > 0, dense > 0) and torch.equal(abs(x), dense.abs())
    assert x.to(torch.float64).dtype == torch.float64 and x.to("cpu") is x and torch.equal(x[0], dense[0]) and len(x) == 2
