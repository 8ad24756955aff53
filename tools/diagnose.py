"""Say what is wrong with detections and what it costs: kinds of errors, gains in mAP, oracles, sensitivity.

RUN is the output folder of a run, or a JSON file of detections of any code base.
"""

if __name__ == "__main__":  # before the other imports, which take seconds, so that Ctrl-C is answered meanwhile
    from engine.ending import begin

    begin()

import argparse
from pathlib import Path

from eval.diagnosis import Diagnosis, diagnose
from eval.kinds import KINDS
from eval.mending import GROUPS
from eval.report import table
from tools.inputs import read_runs, run_parser
from utils import UserError, atomic_write, run_command

MOST_VIDEOS = 5  # in the terminal


def main() -> None:
    parser = run_parser(__doc__, "python -m tools.diagnose RUN [FLAGS]")
    parser.add_argument("runs", nargs=1, type=Path, metavar="RUN")
    parser.add_argument("--tiou", type=float, default=0.5, help="overlap of a true positive (default: %(default)s)")
    how = "write FOLDER/diagnosis.json, detections.csv and instances.csv, with the kind of each detection"
    parser.add_argument("--output", type=Path, metavar="FOLDER", help=how)
    args = parser.parse_args()
    run_command(lambda: say(args), args.debug)


def say(args: argparse.Namespace) -> None:
    if not 0 < args.tiou <= 1:
        raise UserError(f"--tiou {args.tiou:g}: expected a number above 0, at most 1.")
    (run,) = read_runs(args)
    found = diagnose(run.found, run.truth, args.tiou, ties=run.ties, durations=run.durations)
    print(f"{run.source}: mAP {100 * found.mAP:.2f} % at tIoU {found.tiou:g}, {len(found.found)} detections")
    print(f"protocol {run.protocol}: {run.counts}\n")
    print("\n".join(tables(found)), end="")
    if args.output:
        texts = {
            "diagnosis.json": found.json(),
            "detections.csv": found.detections_csv(),
            "instances.csv": found.instances_csv(),
        }
        for name, text in texts.items():
            with atomic_write(args.output / name) as stream:
                stream.write(text)
        print(f"\nwritten: {', '.join(str(args.output / name) for name in texts)}")


def tables(found: Diagnosis) -> list[str]:
    """Tables of at most 80 columns."""
    counts: dict[str, int] = found.kinds
    rows = [
        [
            name,
            str(counts[name]),
            str(found.states.get(name, "")),
            f"{100 * found.gains[name]:+.2f}" if name in found.gains else "",
        ]
        for name in KINDS
        if name != "ignored" or counts[name]
    ]
    rows.append(["missed", "", str(found.states["missed"]), f"{100 * found.gains['missed']:+.2f}"])
    rows += [[name, "", "", f"{100 * found.gains[name]:+.2f}"] for name in (*GROUPS, "all detections", "everything")]
    oracles = [[step.name, f"{100 * step.alone:.2f}", f"{100 * step.together:.2f}"] for step in found.ladder]
    parts = [
        [
            name.replace(" of the class in the video", " of the class"),
            f"{part.low:.3g} to {part.high:.3g}",
            str(part.instances),
            f"{100 * part.recall:.1f}",
            f"{100 * part.mAP:.2f}",
        ]
        for name, own in found.sensitivity.items()
        for part in own
    ]
    shifts = [
        [shift.name, str(shift.detections), f"{shift.start_seconds:+.2f}", f"{shift.end_seconds:+.2f}"]
        + [f"{100 * value:+.0f}" for value in (shift.start_share, shift.end_share)]
        for shift in found.shifts["length"]
    ]
    videos = [
        [video.name[:30], str(video.instances), str(video.hits), f"{100 * video.gain:+.2f}"]
        for video in found.videos[:MOST_VIDEOS]
    ]
    return [
        table(["kind", "detections", "instances", "gain in mAP if mended"], rows),
        table(["oracle", "mAP with it alone", "and those above"], oracles),
        table(["instances by", "from, to", "number", "recall in %", "mAP"], parts),
        table(["instances", "detections", "start in s", "end in s", "start in %", "end in %"], shifts),
        table(["video", "instances", "hits", "gain in mAP if mended"], videos),
    ]


if __name__ == "__main__":
    main()
