# Sourced by run.sh, run_eval.sh and run_tests.sh: finds a Python, and finds or makes an environment for the project.
unset PYTHONSAFEPATH # the project's modules lie in the folder that is worked in

# The first Python that the pinned packages have builds for, 3.11 to 3.14: the active one, then any other on the PATH.
find_python() {
    local candidate
    for candidate in python python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    echo "error: Python 3.11 to 3.14 was not found on the PATH; install one (python.org, conda, pyenv) and run this again." >&2
    return 2
}

# Print the flags, and end, if the arguments ask for help.
help_if_asked() {
    case " $* " in *" --help "* | *" -h "*) ;; *) return 0 ;; esac
    case "$*" in *--method* | *--dataset*) use_environment requirements.txt ;; esac # those of a method's file need packages
    exec "$python" options.py "$@"
}

# Does Python $1 have every package of requirements file $2 in the version pinned there?
satisfies() {
    "$1" - "$2" 2>/dev/null <<'PY'
import importlib.metadata, pathlib, sys

def pins(path):
    for line in path.read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            yield from pins(path.parent / line[3:].strip())
        elif line:
            yield line.split("==")

for name, version in pins(pathlib.Path(sys.argv[1])):
    if importlib.metadata.version(name).split("+")[0] != version:
        sys.exit(1)
PY
}

# Lock .venv for this shell, with file descriptor 9 on .venv.lock; wait if another shell has it. $1 is any Python, since
# macOS has no flock command. The system keeps the lock for the open file: it ends with `exec 9>&-`, and with this shell and
# what it has started, however they end, so it never outlives them.
lock_environment() {
    { exec 9>>.venv.lock; } 2>/dev/null || return 0 # a folder that may not be written to: pip says so
    "$1" - <<'PY'
import signal, sys

signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    import fcntl

    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("environment: waiting for .venv, which another script of this folder is installing", file=sys.stderr, flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
except (ImportError, OSError):
    pass  # a system, or a file system, without such locks
PY
}

# Is the environment in .venv whole, and does it satisfy requirements file $1?
installed() {
    [[ -e .venv/complete ]] && satisfies .venv/bin/python "$1"
}

# Make .venv with the Python $1: by uv, which is quicker, if it is there and succeeds.
make_environment() {
    if command -v uv >/dev/null; then
        uv venv --quiet --seed --python "$1" .venv && return
        echo "environment: uv could not create .venv; trying venv" >&2
        rm -rf .venv
    fi
    "$1" -m venv .venv
}

# Install requirements file $2 for the Python $1: by uv if it is there and succeeds; it does not read pip's settings.
install_packages() {
    if command -v uv >/dev/null; then
        uv pip install --quiet --python "$1" -r "$2" && return
        echo "environment: uv could not install $2; trying pip" >&2
    fi
    "$1" -m pip install --quiet --disable-pip-version-check -r "$2"
}

# Install requirements file $1 into .venv, made with the Python $2 if need be.
install() {
    local python=$PWD/.venv/bin/python
    if ! "$python" -m pip --version >/dev/null 2>&1; then
        if [[ -e .venv ]]; then # of an interrupted run, or its Python is gone
            echo "environment: .venv does not work; keeping it as .venv.broken.$$" >&2
            mv .venv ".venv.broken.$$"
        fi
        echo "environment: creating .venv with $2" >&2
        make_environment "$2" || {
            echo "error: $2 cannot create .venv (on Debian: apt-get install python3-venv)." >&2
            exit 2
        }
    fi
    echo "environment: installing $1 into .venv (once; a few minutes, mostly torch)" >&2
    rm -f .venv/complete
    install_packages "$python" "$1" || {
        echo "error: pip could not install $1; see its message above. Run this again once that is mended." >&2
        exit 2
    }
    touch .venv/complete
    echo "environment: ready" >&2
}

# Set `python` to an interpreter that satisfies requirements file $1: the active one, or that of .venv, made if need be.
# .venv/complete is there when the last installation ran to its end.
use_environment() {
    python=$(find_python) || exit 2
    if [[ $python != "$PWD/.venv/bin/"* ]] && satisfies "$python" "$1"; then
        return
    fi
    if ! installed "$1"; then
        lock_environment "$python"
        installed "$1" || install "$1" "$python"
        exec 9>&-
    fi
    python=$PWD/.venv/bin/python
}
