"""Train a method on a dataset, evaluating as it goes: python main.py --help."""

import random
from argparse import Namespace

import torch

from checkpoint import TrainingState, load_file, load_weights, network_weights
from config import Config, make_config
from dataset.make_demo import ensure_demo
from methods import build_method
from options import parse_args
from outputs import RunFiles, locked
from test import evaluate
from thumos_features import load_database, load_videos
from train import fit, make_optimizer
from utils import UserError, run_command


def main() -> None:
    args = parse_args()
    run_command(lambda: train(args), args.debug)


def train(args: Namespace) -> None:
    config = make_config(args)
    device = choose_device(config.device)
    torch.autograd.set_detect_anomaly(args.debug)
    ensure_demo(config)
    database = load_database(config)
    train_videos, test_videos = (load_videos(config, database, subset) for subset in ("train", "test"))

    with locked(config.output_path):
        files = RunFiles(config, args.quiet)
        saved = load_file(files.checkpoint) if args.resume and files.checkpoint.exists() else None
        seed = config.seed if config.seed >= 0 else random.SystemRandom().randrange(2**31)
        torch.manual_seed(seed)
        method = build_method(config)
        method.network.to(device)
        state = TrainingState(method.network, make_optimizer(method.network, config), seed)
        if saved:
            state.restore(files.checkpoint, saved, config)
            files.say(f"resuming after iteration {state.iteration}")
        elif config.model_file:
            load_weights(method.network, network_weights(load_file(config.model_file)), config.model_file)
        files.say(describe(config, len(train_videos), len(test_videos), device, state.seed))
        files.start(state if saved else None)
        fit(
            method.loss,
            state,
            train_videos,
            lambda between: evaluate(method, test_videos, database, config, device, between),
            files,
            config,
            device,
        )


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
