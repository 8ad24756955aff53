#!/usr/bin/env bash
# Train BaS-Net on THUMOS'14 with the published settings; flags are passed on: bash run.sh --seed 3 --method um
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
source ./environment.sh

python=$(find_python)
help_if_asked "$@"
"$python" -m dataset.present train,test "$@"
use_environment requirements.txt

exec "$python" -W ignore ./main.py "$@"
