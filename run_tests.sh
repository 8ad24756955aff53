#!/usr/bin/env bash
# Run the tests that take no more than three minutes on two cores, or all: bash run_tests.sh --all
# Further flags go to pytest: bash run_tests.sh -k resume
set -euo pipefail
CDPATH="" cd -- "$(dirname -- "${BASH_SOURCE[0]}")"
source ./environment.sh

use_environment requirements-dev.txt
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} # two tests at a time, one thread each, unless the caller says otherwise
if [[ ${1:-} == --all ]]; then
    shift
    set -- -m "not slow" "$@"
fi
exec "$python" -m pytest -n 2 --dist worksteal "$@"
