"""Which library multiplies, and that all of them compute the same."""

import importlib.util
import json
import subprocess
import time
from types import ModuleType

import pytest
import torch
from conftest import ROOT, command, one_thread
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from fast import products
from fast.products import added, product
from utils import UserError

CPU = torch.device("cpu")


@pytest.fixture
def remembered(monkeypatch, tmp_path):
    """The file of a user who forces no library; there is none yet."""
    monkeypatch.delenv(products.VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "basnet" / "products.json"


def started() -> ModuleType:
    """fast/products.py as a process finds it that has just started."""
    spec = importlib.util.spec_from_file_location("started", products.__file__)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def choose(dtype=torch.float32) -> str:
    """What a new process chooses."""
    return started().choose(CPU, dtype)


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
@pytest.mark.parametrize("order", ["rows with gaps", "columns with gaps", "one number"])
def test_gaps_do_not_make_onednn_slow(order):
    """With gaps in the right matrix, its reference product would run: a thousand times slower."""
    random = torch.Generator().manual_seed(0)
    left, dense, other = (strided((256, 256), how, random) for how in ("rows", "rows", order))

    def seconds(right):
        begun = time.perf_counter()
        product(left, right)
        return time.perf_counter() - begun

    with pytest.MonkeyPatch.context() as patch, products.only("onednn"):
        patch.setattr(products, "SMALL", 0)
        taken = [(seconds(other), seconds(dense)) for _ in range(20)]  # in turns, since other work may use the processor
        assert min(there for there, _ in taken) < 30 * min(here for _, here in taken)


def test_the_choice_is_remembered(remembered):
    chosen = choose()
    assert chosen in products.NAMES
    (machine,) = content = json.loads(remembered.read_text())
    assert products.processor() in machine and f"torch {torch.__version__}" in machine and content[machine] == chosen
    for other in {"mm", "conv"}:
        remembered.write_text(json.dumps({machine: other}))
        assert choose() == other, "not probed again"
        assert json.loads(remembered.read_text()) == {machine: other}


@pytest.mark.parametrize("content", ["", "[]", '{"other": "mm"}', "\0", '{"MACHINE": ["mm"]}', '{"MACHINE": "other"}'])
def test_what_was_remembered_for_others_or_damaged_is_probed_anew(remembered, content):
    choose()
    (machine,) = json.loads(remembered.read_text())
    remembered.write_text(content.replace("MACHINE", machine))
    chosen = choose()
    assert chosen in products.NAMES and json.loads(remembered.read_text())[machine] == chosen


def test_a_cache_that_cannot_be_written_is_no_obstacle(remembered):
    remembered.parent.write_text("a file where the folder would be")
    assert choose() in products.NAMES


ONEDNN = "mkldnn::_linear_pointwise"
CONV = "aten::convolution", "aten::convolution_backward"


class Processor(TorchDispatchMode):
    """On which an operator takes as many seconds as `cost` says, by a clock of its own; `broken` ones compute zeros."""

    def __init__(self, cost, broken=()):
        super().__init__()
        self.now, self.cost, self.broken = 0.0, cost, broken

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.name().partition(".")[0]
        self.now += self.cost.get(name, 0)
        found = function(*args, **(kwargs or {}))
        return torch.zeros_like(found) if name in self.broken else found


@pytest.mark.skipif(not products.has_onednn(), reason="this torch has no such operator")
@pytest.mark.parametrize(
    ("times", "expected"), [((1, 2, 3), "mm"), ((2, 1, 3), "onednn"), ((2, 2, 1), "conv"), ((10, 11, 9), "mm")]
)
def test_the_quickest_is_taken(remembered, monkeypatch, times, expected):
    """By times of torch.mm, oneDNN and conv1d with both gradients; the latter has to be quicker by a quarter."""
    mm, onednn, conv = times
    processor = Processor({"aten::mm": mm / 3, ONEDNN: onednn / 3} | dict.fromkeys(CONV, conv / 2))
    monkeypatch.setattr(time, "perf_counter", lambda: processor.now)
    with processor:
        assert choose() == expected


def test_without_the_private_operator(remembered, monkeypatch):
    """Or with one that computes something else."""
    with Processor({}, broken=[ONEDNN]):
        assert not products.has_onednn() and choose() in ("mm", "conv")
        monkeypatch.setenv(products.VARIABLE, "onednn")
        with pytest.raises(UserError, match="cannot use it here; expected mm or conv"):
            choose()


def test_half_and_double_precision_are_left_to_torch(remembered):
    assert [choose(dtype) for dtype in (torch.bfloat16, torch.float16, torch.float64)] == ["mm"] * 3
    assert not remembered.exists()


def test_what_is_no_library_is_refused(monkeypatch):
    monkeypatch.setenv(products.VARIABLE, "blas")
    with pytest.raises(UserError, match=r"BASNET_PRODUCTS=blas.*expected one of mm, onednn, conv"):
        choose()


@pytest.mark.whole
@pytest.mark.parametrize(
    ("name", "code", "said"),
    [("conv", 0, "products by torch's conv1d"), ("blas", 2, "BASNET_PRODUCTS=blas: unknown library")],
)
def test_a_run_names_its_library(tiny, places, name, code, said):
    line = command("main.py", tiny, places, "--seed", "0", "--lr", "[0.01]")
    environment = one_thread() | {products.VARIABLE: name}
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == code and said in done.stdout + done.stderr


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
