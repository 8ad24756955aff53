"""Evaluate a checkpoint: python main_eval.py --model_file FILE."""

from argparse import Namespace
from pathlib import Path

from checkpoint import load_network
from config import make_config
from dataset.make_demo import ensure_demo
from eval.report import best_record_text, report
from main import choose_device
from methods import build_method
from options import parse_args
from outputs import locked, record_of, set_aside
from test import evaluate
from thumos_features import load_database, load_videos
from utils import UserError, atomic_write, run_command, write_json


def main() -> None:
    args = parse_args()
    run_command(lambda: evaluate_checkpoint(args), args.debug)


def evaluate_checkpoint(args: Namespace) -> None:
    config = make_config(args)
    if config.model_file is None:
        raise UserError("nothing to evaluate: name a checkpoint with --model_file (run_eval.sh names ./BaSNet_model_best.pkl).")
    device = choose_device(config.device)
    method = build_method(config)
    load_network(method.network, config.model_file, config)
    method.network.to(device)
    ensure_demo(config)
    database = load_database(config)
    videos = load_videos(config, database, "test")
    with locked(config.output_path):
        evaluation = evaluate(method, videos, database, config, device)
        record = record_of(evaluation, config, 0, {})
        output = Path(config.output_path)
        paths = [output / name for name in ("report.md", "best_record.txt", "detections.json", "evaluation.json")]
        text = report({Path(config.model_file).name: record}, 1, config, config.seed)
        text += "\nWritten:\n" + "".join(f"- {path}\n" for path in paths)
        set_aside(paths)
        for path, content in zip(paths, (text, best_record_text(record)), strict=False):
            with atomic_write(path) as stream:
                stream.write(content)
        write_json(paths[2], evaluation.detections)
        write_json(paths[3], {"config": config.as_dict(), "record": record}, indent=1)
    print(text, end="")


if __name__ == "__main__":
    main()
