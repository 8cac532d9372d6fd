#!/bin/sh
# Makes a virtual environment for tests or examples, or keeps the one that is there, and installs the package into it,
# with a library packed in. Prints the folder of the environment.
#
#     bindings/python/make-environment.sh LIBRARY [--torch]
#
# PYTHON names the interpreter (default: python3). Environments are kept in .build, so that only the first run takes long.
# torch comes from PyPI, with all that CUDA needs, or without it from TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu.
# Status 3: torch cannot be had here.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
library=$(realpath "$1")
with_torch=${2:-}

python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
environment=$root/.build/python-venv${with_torch:+-torch}
install() { "$environment/bin/pip" install --quiet --disable-pip-version-check "$@" >&2; }

if [ "$(cat "$environment/made-with" 2>/dev/null)" != "$version" ]; then
    rm -rf "$environment"
    mkdir -p "$root/.build"
    "$python" -m venv "$environment"
    install 'pip>=23.1' 'setuptools>=77'
    if [ -n "$with_torch" ]; then
        echo "installing torch, which is large" >&2
        install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch || exit 3
        install matplotlib
    fi
    install 'numpy>=1.21' 'cffi>=1.15' 'pytest>=7' ml_dtypes safetensors
    # Written last: an environment whose making was interrupted is made again.
    echo "$version" >"$environment/made-with"
fi

# Without build isolation and dependencies, so that nothing is fetched once the environment exists.
PCCL_LIBRARY=$library install --no-build-isolation --no-deps --force-reinstall "$here"
echo "$environment"
