#!/bin/bash
# Trains, measures and evaluates a decoder on this machine: `bash run.sh --help`. Needs Linux, Python 3.10 or newer with
# torch 2.11, and no other program: nothing but python3 is looked for on the PATH.
here=${BASH_SOURCE[0]%/*}
[ "$here" != "${BASH_SOURCE[0]}" ] || here=.
python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
    printf 'error: there is no %s on the PATH\n\nhint: PYTHON=/path/to/python3 bash run.sh\n' "$python" >&2
    exit 1
fi
# an older one could not even read the program
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
    printf 'error: %s is older than Python 3.10\n\nhint: PYTHON=python3.12 bash run.sh\n' "$python" >&2
    exit 1
fi
exec "$python" "$here/run.py" "$@"
