"""The device and the precision of a run, and their settings of torch."""

import contextlib
import ctypes
import faulthandler
import os
import subprocess
import sys

import torch

from utils import UserError

DTYPES = {"auto": torch.float32, "fp32": torch.float32, "tf32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str, local_rank: int = 0) -> torch.device:
    """The device that --device selects; enables deterministic kernels."""
    if name in ("auto", "cuda") and torch.cuda.is_available():
        name = f"cuda:{local_rank}"
    device = torch.device("cpu" if name == "auto" else name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here.")
    torch.backends.cudnn.deterministic = True
    if device.type == "cpu":
        keep_freed_memory()
    return device


def keep_freed_memory() -> None:
    """Let the C library reuse the memory of large tensors: allocating new pages takes much of a training step."""
    with contextlib.suppress(OSError, AttributeError):  # other C libraries than glibc lack mallopt
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(-4, 0)  # M_MMAP_MAX: no allocation by mmap, whose pages are returned when it is freed
        libc.mallopt(-1, -1)  # M_TRIM_THRESHOLD: never return the end of the heap


def choose_precision(name: str, device: torch.device) -> str:
    """Resolve --precision for `device`, and set the precision of torch's matrix products."""
    if name == "auto":
        name = "tf32" if device.type == "cuda" else "fp32"
    if name == "tf32" and device.type != "cuda":
        raise UserError(
            f"--precision tf32: is a precision of CUDA devices, but the device is {device}; expected fp32, bf16 or fp16."
        )
    if device.type == "cpu" and DTYPES[name] != torch.float32 and not multiplies(DTYPES[name]):
        os.environ.setdefault("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_FP16")  # all instructions but those of matrix units
        if not multiplies(DTYPES[name]):
            raise UserError(f"--precision {name}: this processor does not execute it correctly; expected fp32.")
    torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = name == "tf32"
    return name


def multiplies(dtype: torch.dtype) -> bool:
    """Probe in a child process whether this CPU executes products in `dtype`: some virtual machines report unusable units."""
    if not hasattr(os, "fork"):  # Windows
        code = f"import torch; a = torch.ones(64, 64, dtype={dtype}); raise SystemExit(int((a @ a)[0, 0] != 64))"
        return subprocess.run([sys.executable, "-c", code], capture_output=True, check=False).returncode == 0
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        torch.set_num_threads(1)
        matrix = torch.ones(64, 64, dtype=dtype)
        os._exit(int((matrix @ matrix)[0, 0] != 64))
    return os.waitpid(child, 0)[1] == 0
