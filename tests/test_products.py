"""Which library multiplies, and that all of them compute the same."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fast import products
from fast.products import added, choose, product
from utils import UserError

CPU = torch.device("cpu")


@pytest.fixture
def unforced(monkeypatch, tmp_path):
    """No library is chosen, and what is chosen is remembered in a folder of the test."""
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.delenv(products.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "basnet" / "products.json"


def strided(shape, order, random):
    """A matrix whose rows or columns lie together, with gaps, or all in one place."""
    rows, columns = shape
    match order:
        case "rows":
            return torch.rand(rows, columns, generator=random)
        case "columns":
            return torch.rand(columns, rows, generator=random).t()
        case "rows with gaps":
            return torch.rand(rows, columns + 3, generator=random)[:, 2 : columns + 2]
        case "columns with gaps":
            return torch.rand(columns, rows + 3, generator=random)[:, 2 : rows + 2].t()
        case "one number":
            return torch.rand((), generator=random).expand(rows, columns)


ORDERS = st.sampled_from(["rows", "columns", "rows with gaps", "columns with gaps", "one number"])


@pytest.mark.parametrize("name", ["mm", "onednn"])
@given(sizes=st.tuples(*[st.integers(1, 9)] * 3), orders=st.tuples(ORDERS, ORDERS), seed=st.integers(0, 99))
def test_products_of_matrices_that_lie_in_any_way(name, sizes, orders, seed):
    if name == "onednn" and not products.has_onednn():
        pytest.skip("this torch has no such operator")
    random = torch.Generator().manual_seed(seed)
    rows, depth, columns = sizes
    left, right = strided((rows, depth), orders[0], random), strided((depth, columns), orders[1], random)
    bias, total = torch.rand(columns, generator=random), torch.rand(rows, columns, generator=random)
    with pytest.MonkeyPatch.context() as patch, products.only(name):
        patch.setattr(products, "SMALL", 0)
        expected = (left.double() @ right.double()).float()
        torch.testing.assert_close(product(left, right), expected)
        torch.testing.assert_close(product(left, right, bias), expected + bias)
        out = torch.empty(rows, columns)
        assert product(left, right, out=out) is out
        torch.testing.assert_close(out, expected)
        torch.testing.assert_close(added(total.clone(), left, right), expected + total)


@pytest.mark.skipif(not products.has_onednn(), reason="this torch has no such operator")
def test_gaps_do_not_make_onednn_slow():
    """With gaps in the right matrix, its reference product would run: a thousand times slower."""
    random = torch.Generator().manual_seed(0)
    called = []
    with pytest.MonkeyPatch.context() as patch, products.only("onednn"):
        patch.setattr(products, "SMALL", 0)
        patch.setattr(products, "_inner_product", lambda left, right, *_: called.append(right) or left @ right)
        for order in ("rows with gaps", "columns with gaps", "one number", "rows", "columns"):
            product(strided((3, 4), "rows", random), strided((4, 5), order, random))
    assert len(called) == 5
    assert all(right.is_contiguous() or right.t().is_contiguous() for right in called)


def test_the_choice_is_probed_once_and_remembered(unforced, monkeypatch):
    chosen = choose(CPU)
    assert chosen in products.NAMES
    remembered = json.loads(unforced.read_text())
    (machine,) = remembered
    assert products.processor() in machine and f"torch {torch.__version__}" in machine and remembered[machine] == chosen

    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setattr(products, "_probe", lambda *_: pytest.fail("it is known"))
    assert choose(CPU) == chosen


@pytest.mark.parametrize("content", ["", "[]", '{"other": "mm"}', "\0", '{"MACHINE": ["mm"]}', '{"MACHINE": "other"}'])
def test_what_was_remembered_for_others_or_damaged_is_probed_anew(unforced, monkeypatch, content):
    monkeypatch.setattr(products, "_probe", lambda *_: "mm")
    unforced.parent.mkdir()
    machine = f"{products.processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, {torch.float32}"
    unforced.write_text(content.replace("MACHINE", machine))
    assert choose(CPU) == "mm"
    assert "mm" in json.loads(unforced.read_text()).values()


def test_a_cache_that_cannot_be_written_is_no_obstacle(unforced, monkeypatch):
    monkeypatch.setattr(products, "_probe", lambda *_: "mm")
    unforced.parent.write_text("a file where the folder would be")
    assert choose(CPU) == "mm"


@pytest.mark.parametrize(
    ("times", "expected"), [((1, 2, 3), "mm"), ((2, 1, 3), "onednn"), ((2, 2, 1), "conv"), ((10, 11, 9), "mm")]
)
def test_the_quickest_is_taken(monkeypatch, times, expected):
    """By times of torch.mm, oneDNN and conv1d; the latter has to be quicker by a quarter."""
    seconds = dict(zip(("by_mm", "by_onednn", "by_conv"), times, strict=True))
    monkeypatch.setattr(products, "has_onednn", lambda: True)
    monkeypatch.setattr(products, "_timed", lambda work, _: seconds[work.__name__])
    assert products._probe(CPU, torch.float32) == expected


def test_without_the_private_operator(monkeypatch, unforced):
    monkeypatch.setattr(products, "_inner_product", lambda *_: torch.zeros(5, 3))  # or it computes something else
    assert not products.has_onednn() and choose(CPU) in ("mm", "conv")
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setenv(products.VARIABLE, "onednn")
    with pytest.raises(UserError, match="cannot use it here; expected mm or conv"):
        choose(CPU)


def test_half_and_double_precision_are_left_to_torch(unforced):
    assert [choose(CPU, dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)] == ["mm"] * 3
    assert not unforced.exists()


def test_a_run_names_its_library(cli, monkeypatch):
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setenv(products.VARIABLE, "conv")
    assert "products by torch's conv1d" in cli("main.py", "--seed", "0", "--lr", "[0.01]").stdout
    monkeypatch.setattr(products, "_chosen", {})
    monkeypatch.setenv(products.VARIABLE, "blas")
    done = cli("main.py", "--seed", "0", "--lr", "[0.01]", expect=2)
    assert "BASNET_PRODUCTS=blas" in done.stderr and "expected one of mm, onednn, conv" in done.stderr


@settings(max_examples=20)
@given(st.integers(1, 5), st.integers(1, 4), st.sampled_from([1, 3]), st.booleans(), st.integers(0, 9))
def test_a_layer_is_torchs(times, width, kernel, bias, seed):
    """Values and all gradients in double precision, by finite differences too."""
    from fast.conv import Conv1d

    torch.manual_seed(seed)
    layer = Conv1d(width, 3, kernel, padding=kernel // 2, bias=bias).double()
    x = torch.randn(2, width, times, dtype=torch.float64, requires_grad=True)
    given_weights = dict(layer.named_parameters())
    expected = torch.nn.functional.conv1d(x, layer.weight, layer.bias, padding=kernel // 2)
    torch.testing.assert_close(layer(x), expected)

    def computed(x, *weights):
        return torch.func.functional_call(layer, dict(zip(given_weights, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(computed, (x, *given_weights.values()))
