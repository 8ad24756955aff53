"""Is the data set there at all? Standard library only, so run.sh can ask before it builds an environment.

`python -m dataset.present train,test FLAGS OF main.py` says what is missing and exits with 2.
"""

import sys
from pathlib import Path

from config import Config, make_config, where_to_get
from dataset.facts import DEMOS
from dataset.layouts import find_layout, split_names
from options import parse_args
from utils import UserError, run_command


def require_data(config: Config, subsets: list[str]) -> None:
    """Refuse a folder that lacks annotations, or the folder of a subset altogether; the demo makes itself."""
    root, facts = Path(config.data_path), config.facts
    layout = find_layout(root, facts, config.layout)
    missing = [] if config.annotation_file.exists() else [str(config.annotation_file)]
    for subset in subsets:
        if subset not in layout.folders:
            missing.append(layout.expected(subset))
        elif layout.streams_apart:
            folders = [layout.folders[subset] / stream for stream in config.streams]
            missing += [str(folder) for folder in folders if not folder.is_dir()]
        split_names(root, layout, subset)
    if missing:
        raise UserError(f"{root}: missing {' and '.join(missing)}. {where_to_get(facts, config.data_path)}")


if __name__ == "__main__":
    arguments = parse_args(sys.argv[2:])
    if arguments.dataset not in DEMOS:
        run_command(lambda: require_data(make_config(arguments), sys.argv[1].split(",")))
