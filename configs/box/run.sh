#!/bin/bash
# Trains, measures and evaluates a decoder on this machine: `bash run.sh --help`. Needs Linux, Python 3.10 or newer with
# torch 2.11, and no other program: nothing but python3 is looked for on the PATH.
here=${BASH_SOURCE[0]%/*}
[ "$here" != "${BASH_SOURCE[0]}" ] || here=.
if ! command -v "${PYTHON:-python3}" >/dev/null; then
    printf 'error: there is no %s on the PATH\n\nhint: PYTHON=/path/to/python3 bash run.sh\n' "${PYTHON:-python3}" >&2
    exit 1
fi
exec "${PYTHON:-python3}" "$here/run.py" "$@"
