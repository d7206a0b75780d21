#!/usr/bin/env bash
# The demo, step by step, each command shown before it runs. `make demo` calls it.
# usage: configs/demo.sh COMMAND RUN_FOLDER MINUTES LIMIT
set -euo pipefail
export CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" # the recipe's texts lie below it
stella=$1 run=$2 minutes=$3 limit=$4
pairs=$run-pairs
encoder=.venv/all-MiniLM-L6-v2
held_out=configs/demo-held-out.txt

show() {
    printf '\n$ inverse-stella' >&2
    printf ' %q' "$@" >&2
    printf '\n' >&2
    "$stella" "$@"
}

say() { printf '\n== %s\n' "$1" >&2; }

say "1. Real text -> (vector, text) pairs"
show pairs build --recipe configs/demo.toml --set pairs.dir="$pairs"
show pairs inspect "$pairs"

say "2. Pairs -> a decoder, in $minutes minutes of training (ctrl-c stops early and keeps what was learned)"
resume=()
[ ! -e "$run/checkpoints/latest" ] || resume=(--resume)
show train --recipe configs/demo.toml --set pairs.dir="$pairs" --set run.dir="$run" \
    --max-minutes "$minutes" "${resume[@]}"

say "3. How much comes back: held-out texts -> vectors -> texts -> vectors"
show eval "$run" --pairs "$pairs" --encoder "$encoder" --limit "$limit" --out "$run/evaluation.json" \
    --suite reconstruction,self-retrieval,edge-cases

say "4. A report to send to a colleague, and the folder that a service or Hugging Face transformers loads"
show report "$run" --out "$run" --title "The demo's decoder"
rm -rf "$run/export"
show export "$run" "$run/export"

say "5. Vectors of sentences that were kept out of the training, read back as text"
show encode --encoder "$encoder" --input "$held_out" --output "$run/held-out.npy"
show invert "$run/export" --vectors "$run/held-out.npy"
show roundtrip "$(head -n 1 "$held_out")" --decoder "$run/export" --encoder "$encoder"

say "Done. The run is in $run, its report in $run/report.html, the export in $run/export; docs/ says what each command can do."
