"""Train a method on a dataset, evaluating as it goes: python main.py --help."""

import random
from argparse import Namespace
from collections.abc import Callable

import torch

from checkpoint import TrainingState, load_file, load_network
from config import Config, make_config
from dataset.check import quick_check
from dataset.make_demo import ensure_demo
from methods import build_method
from options import parse_args
from outputs import RunFiles, locked
from seeds import train_seeds
from store import open_store
from test import Evaluation, evaluate
from thumos_features import fingerprint, load_data
from train import fit, make_optimizer
from utils import UserError, run_command


def main() -> None:
    args = parse_args()
    run_command(lambda: train_seeds(args) if args.seeds else train(args), args.debug)


def train(args: Namespace) -> None:
    ensure_demo(args.dataset, args.data_path)
    config = make_config(args)
    device = choose_device(config.device)
    torch.autograd.set_detect_anomaly(args.debug)
    data = load_data(config)

    with locked(config.output_path, config.model_path, config.log_path):
        files = RunFiles(config, args.quiet)
        saved = load_file(files.checkpoint) if args.resume and files.checkpoint.exists() else None
        seed = config.seed if config.seed >= 0 else random.SystemRandom().randrange(2**31)
        torch.manual_seed(seed)
        method = build_method(config)
        method.network.to(device)
        optimizer = make_optimizer(method.network, config)
        state = TrainingState(method.network, optimizer, seed, fingerprint([*data.train, *data.test], data.truth))
        if saved:
            state.restore(files.checkpoint, saved, config)
            files.say(f"resuming after iteration {state.iteration}")
        elif config.model_file:
            load_network(method.network, config.model_file, config)
        files.say(data.summary)
        for finding in quick_check(data, config):
            files.say(f"warning: {finding.kind}: {finding.where}: {finding.text}")
        store = open_store([*data.train, *data.test], config, device, files.say)
        files.say(describe(config, len(data.train), len(data.test), device, state.seed))
        files.start(state, resumed=saved is not None)

        def evaluate_now(between: Callable[[], None]) -> Evaluation:
            return evaluate(method, data, store, config, device, between)

        fit(method.loss, state, data.train, store, evaluate_now, files, config, device)


def describe(config: Config, num_train: int, num_test: int, device: torch.device, seed: int) -> str:
    return (
        f"{config.method} ({config.ablation}) on {config.dataset}: {num_train} training and {num_test} test videos, "
        f"{config.num_iters} iterations of {config.batch_size}, {device}, seed {seed}"
    )


def choose_device(name: str) -> torch.device:
    """The device that --device names, with convolutions in full fp32 and deterministic kernels."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"--device {name}: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA devices here.")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.deterministic = True
    return device


if __name__ == "__main__":
    main()
