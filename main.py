"""Train a method on a dataset with evaluations on schedule: python main.py --help."""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import contextlib
import dataclasses
import random
from argparse import Namespace
from collections.abc import Sequence

import torch

from config import Config
from dataset.check import quick_check
from dataset.draws import make_draws
from dataset.make_demo import ensure_demo
from dataset.store import open_store
from engine.checkpoint import TrainingState, load_file, load_network
from engine.device import DTYPES, choose_device, choose_precision
from engine.files import RunFiles, locked
from engine.loggers import Maker, chosen_loggers
from engine.recorder import NoRecorder, Recorder
from engine.seeds import train_seeds
from engine.team import Team
from fast import products
from methods.base import build_method
from options import make_config, parse_args, tell_settings
from test import Judge
from thumos_features import Data, fingerprint, load_data
from train import Training, make_optimizer
from utils import UserError, cores, run_command


def main() -> None:
    args = parse_args()
    run_command(lambda: train_seeds(args) if args.seeds else train(args), args.debug)


def train(args: Namespace, kind: type[RunFiles] = RunFiles) -> None:
    loggers = chosen_loggers(args.tensorboard, args.logger)
    team = Team()
    device = choose_device(args.device, team.local_rank)
    with team.joined(device):
        if team.leads:
            ensure_demo(args.dataset, args.data_path)
        team.agreed(None)  # wait until the demo exists
        config = make_config(args)
        config = dataclasses.replace(config, precision=choose_precision(config.precision, device))
        data = load_data(config)
        with locked(config.output_path, config.model_path, config.log_path) if team.leads else contextlib.nullcontext():
            files = kind(config, args.quiet or not team.leads, args.wide)
            train_on(data, team, device, args, files, loggers)


def train_on(data: Data, team: Team, device: torch.device, args: Namespace, files: RunFiles, loggers: Sequence[Maker]) -> None:
    """Train, as one process of `team`."""
    config = files.config
    torch.autograd.set_detect_anomaly(args.debug)
    saved = load_file(files.checkpoint) if args.resume and files.checkpoint.exists() else None
    seed = team.agreed(config.seed if config.seed >= 0 else random.SystemRandom().randrange(2**31))
    draws = make_draws(config, seed, device, team.size)
    torch.manual_seed(seed)
    method = build_method(config)
    method.network.to(device)
    scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "fp16")
    videos = [*data.train, *data.test]
    optimizer = make_optimizer(method.network, config)
    state = TrainingState(method.network, optimizer, scaler, seed, fingerprint(videos, data.truth), draws)
    if saved:
        state.restore(files.checkpoint, saved, method, data.train, data.test)
        files.say(f"resuming after iteration {state.iteration}")
    if team.agreed(state.iteration) != state.iteration:
        raise UserError(f"{files.checkpoint}: differs between processes; expected a folder that all of them share.")
    if config.model_file and not saved:
        load_network(method.network, config.model_file, config)
    if config.compile:
        method.network.compile()
    if team.leads:
        tell_settings(args, files.say)
    files.say(data.summary)
    if team.leads:
        for finding in quick_check(data, config):
            files.say(f"warning: {finding}")
    else:
        team.agreed(None)  # wait until rank 0 has written the packed copy
    products.choose(device, DTYPES[config.precision])  # rank 0 measures first; the others read its result
    store = open_store(videos, config, device, files.say, state.contents)
    if team.leads:
        team.agreed(None)
    files.say(describe(config, data, device, state.seed, team.size))
    recorder: Recorder | NoRecorder = NoRecorder()
    if team.leads:
        files.start(state, resumed=saved is not None)
        workers = eval_workers(config, device)
        judge = Judge(config, {video.name: video.label_c for video in data.test}, data.truth, threads=1 if workers else None)
        recorder = Recorder(state, files, judge, workers, len(data.train), loggers)
    Training(method, state, data, store, recorder, device, team).fit()


def eval_workers(config: Config, device: torch.device) -> int:
    """Number of evaluation processes; by default only with a GPU, whose training leaves cores idle."""
    if config.eval_workers is not None:
        return config.eval_workers
    return min(8, max(1, cores() - 2)) if device.type == "cuda" else 0


def describe(config: Config, data: Data, device: torch.device, seed: int, processes: int) -> str:
    library = products.NAMES[products.choose(device, DTYPES[config.precision])]
    videos = f"{len(data.train)} training and {len(data.test)} test videos"
    return (
        f"{config.title}: {videos}, "
        f"{config.num_iters} iterations of {config.batch_size}, {device}, {config.precision}, seed {seed}, "
        f"products by {library}" + (f", {processes} processes" if processes > 1 else "")
    )


if __name__ == "__main__":
    main()
