"""Evaluate a checkpoint: python main_eval.py --model_file FILE."""

from argparse import Namespace
from pathlib import Path

from checkpoint import load_file, load_weights, network_weights
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
    weights = network_weights(load_file(config.model_file))
    method = build_method(config)
    load_weights(method.network, weights, config.model_file)
    method.network.to(device)
    ensure_demo(config)
    database = load_database(config)
    evaluation = evaluate(method, load_videos(config, database, "test"), database, config, device)

    output = Path(config.output_path)
    paths = [output / name for name in ("config.json", "best_record.txt", "detections.json", "report.md")]
    record = record_of(evaluation, config, 0, {})
    text = report({Path(config.model_file).name: record}, 1, config) + "\nWritten:\n" + "".join(f"- {p}\n" for p in paths)
    with locked(output):
        set_aside(paths)
        write_json(paths[0], config.as_dict(), indent=1)
        for path, content in ((paths[1], best_record_text(record)), (paths[3], text)):
            with atomic_write(path) as stream:
                stream.write(content)
        write_json(paths[2], evaluation.detections)
    print(text, end="")


if __name__ == "__main__":
    main()
