#!/usr/bin/env bash
# Evaluate a checkpoint; further flags are passed on: bash run_eval.sh --model_file models/BaSNet/BaS_Net_model_seed_0.pkl
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
source ./environment.sh

python=$(find_python)
help_if_asked "$@"
set -- --model_file ./BaSNet_model_best.pkl "$@"
"$python" -m dataset.present test "$@"
use_environment requirements.txt

exec "$python" -W ignore ./main_eval.py "$@"
