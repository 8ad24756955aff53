"""Is the data set there at all? Standard library only, so run.sh can ask before it builds an environment.

`python -m dataset.present train,test FLAGS OF main.py` says what is missing and exits with 2.
"""

import sys
from pathlib import Path

from config import Config, make_config
from options import parse_args
from utils import UserError, listing, run_command


def where_to_get(config: Config) -> str:
    return (
        f"Put the data of --dataset {config.dataset} in {config.data_path} as dataset/README.md shows, name their place "
        "with --data_path, or try the built-in data: bash run.sh --dataset demo"
    )


def require_data(config: Config, subsets: list[str]) -> None:
    """Refuse a folder that lacks a file or a folder of features altogether; the demo makes itself."""
    root = Path(config.data_path)
    if config.dataset == "demo" and not root.exists():
        return
    wanted = ["gt.json", *(f"split_{subset}.txt" for subset in subsets)]
    wanted += [f"features/{subset}/{stream}" for subset in subsets for stream in config.streams]
    missing = [name for name in wanted if not (root / name).exists()]
    if missing:
        raise UserError(
            f"{root}: {len(missing)} of the {len(wanted)} files and folders of the data are missing: "
            f"{listing(missing, len(wanted))}. {where_to_get(config)}"
        )


if __name__ == "__main__":
    run_command(lambda: require_data(make_config(parse_args(sys.argv[2:])), sys.argv[1].split(",")))
