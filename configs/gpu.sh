#!/usr/bin/env bash
# Measures all that docs/gpu.md has a cell for, on a machine with GPUs (or, with --tiny, its own ways on any machine).
# Every step ends in time, a step that fails does not stop the next, and what was printed is kept: steps that are not
# asked for, or skipped, leave what DIR has of them.
#
# usage: configs/gpu.sh [--out DIR] [--minutes N] [--gpus N] [--tiny] [--dry-run] [STEP…]
#   --out DIR      one STEP.json and STEP.log each, report.json and report.md [default: runs/gpu]
#   --minutes N    the most that one step may take [default: 6]
#   --gpus N       processes for the steps on several GPUs [default: those that nvidia-smi lists]
#   --tiny         shapes of a few seconds, to try the script itself
#   --dry-run      print the commands only
#   STEP…          only the steps whose names begin so, e.g. `doctor train-300m`
# From the environment, where there is something other than the default:
#   STELLA=target/release/inverse-stella   the command       PYTHON=python3    for the peers and the report
#   DECODER=…   an export, for decode          VECTORS=….npy     what it and its peer decode
#   ENCODER=.venv/all-MiniLM-L6-v2  TEXTS=…    for encode        PEERS=…           folder of the peers' programs
#   RECIPE=configs/300m.toml                   for several GPUs; its pairs must be there
#   PEAK_TFLOPS=989                            what MFU is measured against (dense bf16 of an H100, by its data sheet)
set -uo pipefail
cd "$(dirname "$0")/.." || exit

out=runs/gpu minutes=6 gpus='' tiny='' dry='' only=()
fail() { printf 'error: %s\n' "$1" >&2; exit 2; }
while [ $# -gt 0 ]; do
    case $1 in
    --out | --minutes | --gpus)
        [ $# -gt 1 ] || fail "$1 needs a value"
        case $1 in --out) out=$2 ;; --minutes) minutes=$2 ;; --gpus) gpus=$2 ;; esac
        shift
        ;;
    --tiny) tiny=1 ;;
    --dry-run) dry=1 ;;
    -h | --help) sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "$0"; exit ;;
    -*) fail "there is no flag $1 (--help lists them)" ;;
    *) only+=("$1") ;;
    esac
    shift
done
stella=${STELLA:-target/release/inverse-stella} python=${PYTHON:-python3} peers=${PEERS:-}
decoder=${DECODER:-} vectors=${VECTORS:-} encoder=${ENCODER:-.venv/all-MiniLM-L6-v2} texts=${TEXTS:-}
recipe=${RECIPE:-configs/300m.toml}
[[ $minutes =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--minutes $minutes is no number"
limit=$(awk "BEGIN { print int($minutes * 60 + 0.5) }")
[ "$limit" -ge 1 ] || fail "--minutes $minutes is less than a second"
[ -n "$gpus" ] || gpus=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true)
[[ $gpus =~ ^[0-9]+$ ]] || fail "--gpus $gpus is no number"
if [ -z "$dry" ]; then mkdir -p "$out" && touch "$out/steps.tsv" || fail "nothing can be written to $out"; fi

wanted() { # step
    [ ${#only[@]} -gt 0 ] || return 0
    local prefix
    for prefix in "${only[@]}"; do [[ $1 != "$prefix"* ]] || return 0; done
    return 1
}

note() { # step, status, seconds, command…: a line of steps.tsv, in the place of an earlier one of that step
    local step=$1 status=$2 seconds=$3
    shift 3
    LINE=$(printf '%s\t%s\t%s\t%s' "$step" "$status" "$seconds" "$*") awk -F'\t' '
        BEGIN { line = ENVIRON["LINE"]; split(line, words) }
        $1 == words[1] { if (!told++) print line; next }
        { print }
        END { if (!told) print line }' "$out/steps.tsv" >"$out/steps.tsv.new" && mv "$out/steps.tsv.new" "$out/steps.tsv"
    printf '%-24s %s\n' "$step" "$status" >&2
}

step() { # step, command…: its output becomes STEP.json, what it says STEP.log
    local step=$1 begin=$SECONDS code=0
    shift
    wanted "$step" || return 0
    if [ -n "$dry" ]; then
        printf '%s:' "$step"; printf ' %q' "$@"; printf '\n'
        return 0
    fi
    # a second signal, for what does not listen to the first
    timeout --signal=TERM --kill-after="${KILL_AFTER:-20}" "$limit" "$@" >"$out/$step.json.new" 2>"$out/$step.log" </dev/null || code=$?
    mv "$out/$step.json.new" "$out/$step.json"
    case $code in
    0) note "$step" ok $((SECONDS - begin)) "$@" ;;
    124 | 137) note "$step" 'out of time' $((SECONDS - begin)) "$@" ;;
    *) note "$step" "failed ($code)" $((SECONDS - begin)) "$@" ;;
    esac
}

skip() { # step, reason
    wanted "$1" || return 0
    if [ -n "$dry" ]; then
        printf '%s: skipped: %s\n' "$1" "$2"
    elif ! awk -F'\t' -v step="$1" '$1 == step && $2 !~ /^skipped/ { known = 1 } END { exit !known }' "$out/steps.tsv"; then
        note "$1" "skipped: $2" 0
    fi
}

# Ours and the peers' on the same shapes, one after the other: dim hidden layers heads ffn vocab prefix batch length.
train() { # name, shapes…
    local name=$1 flags=() key steps=30
    shift
    for key in hidden layers heads ffn vocab prefix batch length; do
        flags+=("--$key" "$1")
        shift
    done
    [ -z "$tiny" ] || steps=2
    step "train-$name" "$stella" bench train "${flags[@]}" --steps $steps --json
    local peer=$peers/train_torch.py
    if [ -n "$peers" ] && [ -f "$peer" ] && "$python" -c 'import torch' 2>/dev/null; then
        step "train-$name-torch" "$python" "$peer" "${flags[@]}" --steps $steps
        step "train-$name-compile" "$python" "$peer" "${flags[@]}" --steps $steps --compile
    else
        skip "train-$name-torch" "PEERS names no folder with train_torch.py, or $python has no torch"
    fi
}

step doctor "$stella" doctor --json
if command -v cargo >/dev/null 2>&1 && [ -z "$tiny" ]; then
    step parity cargo test --release --features cuda -p torch-ext -p models --test cuda --test graphed
else
    skip parity 'no cargo here, or --tiny'
fi

# hidden layers heads ffn vocab prefix batch length: the peers' own, then recipes of 0.3 and 1.1 billion parameters
if [ -n "$tiny" ]; then
    train tiny 32 2 2 64 97 2 4 8
else
    train 17m 384 6 6 1024 13312 4 256 16
    train 17m-large-batch 384 6 6 1024 13312 4 8192 16
    train 300m 1024 24 8 2816 32768 8 512 64
    train 1b 2048 16 16 8192 32768 8 256 64
fi

for batch in 1 64 512; do
    if [ -n "$decoder" ]; then
        step "decode-$batch" "$stella" bench decode "$decoder" ${vectors:+--vectors "$vectors"} --batch "$batch" --json
        step "decode-$batch-graphs" "$stella" bench decode "$decoder" ${vectors:+--vectors "$vectors"} --batch "$batch" \
            --device cuda --graphs --json
        if [ -n "$vectors" ] && [ -f "$peers/generate_hf.py" ] && "$python" -c 'import transformers' 2>/dev/null; then
            step "decode-$batch-transformers" "$python" "$peers/generate_hf.py" "$decoder" "$vectors" --batch "$batch"
        fi
    else
        skip "decode-$batch" 'DECODER names no export'
    fi
done

for dtype in bf16 f32; do
    if [ -n "$texts" ]; then
        step "encode-$dtype" "$stella" bench encode --encoder "$encoder" --texts "$texts" --dtype "$dtype" --json
        if [ -f "$peers/encode_st.py" ] && "$python" -c 'import sentence_transformers' 2>/dev/null; then
            step "encode-$dtype-peer" "$python" "$peers/encode_st.py" "$encoder" "$texts" "$dtype" 32
        fi
    else
        skip "encode-$dtype" 'TEXTS names no file'
    fi
done

# one process a GPU, on pairs that are there: the steps of one recipe shared by 1, 2, 4, … of them
steps=30
[ -z "$tiny" ] || steps=2
for ((processes = 1; processes <= gpus; processes *= 2)); do
    step "processes-$processes" "$stella" launch --processes "$processes" -- bench train --recipe "$recipe" --steps $steps --json
done
[ "$gpus" -gt 0 ] || skip processes 'no GPU is listed by nvidia-smi'

[ -n "$dry" ] || "$python" configs/gpu_report.py "$out" || fail "the report could not be made; the steps are in $out"
