"""The matrix products of the fast layers, computed by the fastest library on this processor.

torch.mm uses MKL in most x86 builds. On some processors MKL takes twice as long as oneDNN, which torch's convolutions use; on
others it is faster. So both are timed once per processor. The environment variable BASNET_PRODUCTS overrides the choice:

    mm      torch.mm
    onednn  oneDNN's inner product, by a private operator of torch; used only if it exists and computes the same as torch.mm
    conv    torch's conv1d for layers of kernel 3, as torch.nn has it; torch.mm for the rest

torch.mm always computes small products, double precision, and half precision on a CPU (where it calls oneDNN itself).
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from utils import UserError, atomic_write

NAMES = {"mm": "torch.mm", "onednn": "oneDNN", "conv": "torch's conv1d"}
VARIABLE = "BASNET_PRODUCTS"
SMALL = 2**27  # multiply-adds; below it, oneDNN's half millisecond of preparation per new shape does not pay
SHARED = 1.25  # how much faster torch's conv1d must be: with it, branches and repeated snippets share no products
PROBED = (torch.float32, torch.bfloat16, torch.float16)

_chosen: dict[tuple[str, torch.dtype], str] = {}  # by device type and dtype


def choose(device: torch.device, dtype: torch.dtype = torch.float32) -> str:
    """The library for this process, a key of NAMES: forced, else cached from an earlier probe, else probed now."""
    key = (device.type, dtype)
    if key not in _chosen:
        _chosen[key] = _forced(device) or _quickest(device, dtype)
    return _chosen[key]


@contextlib.contextmanager
def only(name: str) -> Iterator[None]:
    """Inside, this library computes products in single precision."""
    before = dict(_chosen)
    _chosen.update({(device, torch.float32): name for device in ("cpu", "cuda")})
    try:
        yield
    finally:
        _chosen.clear()
        _chosen.update(before)


def library(x: Tensor) -> str:
    """The library for products of tensors like `x`."""
    return choose(x.device, x.dtype)


def product(left: Tensor, right: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """left @ right + bias; written to `out` if given."""
    if by_onednn(left, right):
        found = _inner_product(_regular(left), _dense(right), bias, None)
        return found if out is None else out.copy_(found)
    return torch.mm(left, right, out=out) if bias is None else torch.addmm(bias, left, right, out=out)


def left_of_several(left: Tensor, right: Tensor) -> Tensor:
    """`left` as the left side of several products with matrices like `right`: copied once where oneDNN copies it each time."""
    return left.contiguous() if by_onednn(left, right) else left


def added(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """total + left @ right; `total` may be overwritten."""
    if by_onednn(left, right):
        return _inner_product(_regular(left), _dense(right), None, total)
    return total.addmm_(left, right)


def _inner_product(left: Tensor, right: Tensor, bias: Tensor | None, total: Tensor | None) -> Tensor:
    """left @ right, plus a bias or the matrix `total`, by oneDNN."""
    multiply = torch.ops.mkldnn._linear_pointwise
    if total is None:
        return multiply(left, right.t(), bias, "none", [], "")
    return multiply.binary(left, total, right.t(), bias, "add")


def by_onednn(left: Tensor, right: Tensor) -> bool:
    """True if oneDNN computes left @ right, and so the products of their gradients, which are of the same size."""
    return left.numel() * right.shape[1] >= SMALL and left.dtype == torch.float32 and library(left) == "onednn"


def _dense(matrix: Tensor) -> Tensor:
    """`matrix` without gaps in memory: with gaps in the right operand, oneDNN is a thousand times slower."""
    return matrix if matrix.is_contiguous() or matrix.t().is_contiguous() else matrix.contiguous()


def _regular(matrix: Tensor) -> Tensor:
    """`matrix` with contiguous rows or columns, possibly with gaps between them."""
    (rows, columns), (down, across) = matrix.shape, matrix.stride()
    return matrix if (across == 1 and down >= columns) or (down == 1 and across >= rows) else matrix.contiguous()


# ------------------------------------------------------------------------------------------------------- the choice


def _forced(device: torch.device) -> str | None:
    name = os.environ.get(VARIABLE, "")
    if not name:
        return None
    if name not in NAMES:
        raise UserError(f"{VARIABLE}={name}: unknown library; expected one of {', '.join(NAMES)}.")
    if name == "onednn" and device.type == "cpu" and not has_onednn():
        raise UserError(f"{VARIABLE}=onednn: torch {torch.__version__} cannot use it here; expected mm or conv.")
    return name if device.type == "cpu" or name != "onednn" else "mm"


def has_onednn() -> bool:
    """True if torch's private operator exists and computes the same as torch.mm."""
    try:
        left, right, bias = (_random(*shape) for shape in ((5, 7), (7, 3), (3,)))
        found = _inner_product(left, right, None, _inner_product(left, right, bias, None))
        return torch.allclose(found, 2 * (left @ right) + bias, rtol=1e-4)
    except (AttributeError, RuntimeError, TypeError):
        return False


def _random(*shape: int) -> Tensor:
    """Random numbers that leave torch's global generator, on which runs depend, unchanged."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def _quickest(device: torch.device, dtype: torch.dtype) -> str:
    if dtype not in PROBED or (device.type == "cpu" and dtype != torch.float32):
        return "mm"
    cached = _cached()
    machine = f"{_processor_of(device)}, {torch.get_num_threads()} threads, torch {torch.__version__}, {dtype}{_settings()}"
    chosen = cached.get(machine)
    if not isinstance(chosen, str) or chosen not in NAMES or (chosen == "onednn" and not has_onednn()):
        cached[machine] = chosen = _probe(device, dtype)
        with contextlib.suppress(OSError, RuntimeError), atomic_write(_file()) as stream:  # RuntimeError: no home folder
            json.dump(cached, stream, indent=1)
    return chosen


def _settings() -> str:
    """Settings that affect the libraries' speed."""
    precision = torch.get_float32_matmul_precision()
    settings = [f", {name}={os.environ[name]}" for name in ("ONEDNN_MAX_CPU_ISA", "MKL_CBWR") if name in os.environ]
    return "".join([f", precision {precision}"] * (precision != "highest") + settings)


def _file() -> Path:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "basnet" / "products.json"


def _cached() -> dict[str, str]:
    try:
        found = json.loads(_file().read_text())
    except (OSError, ValueError, RuntimeError):  # RuntimeError: no home folder
        return {}
    return found if isinstance(found, dict) else {}


@torch.inference_mode(False)
@torch.enable_grad()
def _probe(device: torch.device, dtype: torch.dtype) -> str:
    """The fastest library for a convolution of kernel 3 and its gradients, in 0.7 s of processor time (AMD EPYC, model 17)."""
    times, width = 256, 512
    shapes = ((times, width), (3 * width, width), (times, 3 * width))
    x, weight, grad = (_random(*shape).to(device, dtype) for shape in shapes)  # `weight` has three taps

    def by_mm() -> None:
        torch.mm(x, weight.t())
        torch.mm(grad, weight)
        torch.mm(grad.t(), x)

    def by_onednn() -> None:
        for left, right in ((x, weight.t()), (grad, weight), (grad.t(), x)):
            _inner_product(left, right, None, None)

    x_bct = x.t()[None].contiguous().requires_grad_()
    weight_oi3 = weight.view(3, width, width).permute(1, 2, 0).contiguous().requires_grad_()
    grad_bct = grad[:, :width].t()[None].contiguous()

    def by_conv() -> None:
        torch.autograd.grad(F.conv1d(x_bct, weight_oi3, padding=1), (x_bct, weight_oi3), grad_bct)

    works: dict[str, Callable[[], None]] = {"mm": by_mm, "conv": by_conv}
    if device.type == "cpu" and has_onednn():
        works["onednn"] = by_onednn
    best = dict.fromkeys(works, float("inf"))
    for turn in range(5):
        for name, work in works.items():
            seconds = _timed(work, device)
            best[name] = min(best[name], seconds) if turn else best[name]  # the first turn is a warm-up
    best["conv"] *= SHARED
    return min(best, key=best.__getitem__)


def _timed(work: Callable[[], None], device: torch.device) -> float:
    begun = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begun


def _processor_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else processor()


def processor() -> str:
    """Name, family and model of the processor, and its vector extensions: the name alone is not unique."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.processor() or platform.machine()
    flags = fields.get("flags", "").split()
    widest = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]
    return f"{fields['model name']} (family {fields.get('cpu family')}, model {fields.get('model')}, {' '.join(widest)})"
