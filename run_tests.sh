#!/usr/bin/env bash
# Run the tests; further flags go to pytest: bash run_tests.sh -k resume
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
source ./environment.sh

use_environment requirements-dev.txt
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two tests at a time, one thread each, unless the caller says otherwise
exec "$python" -m pytest -n 2 --dist worksteal "$@"
