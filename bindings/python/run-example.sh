#!/bin/sh
# Trains the small GPT of examples/train_gpt.py in all variants: plot, table and verdict. Takes up to 30 minutes on two cores.
#
#     bindings/python/run-example.sh [PREFIX] [arguments of `train_gpt.py all`...]
#
# PREFIX is the folder that has lib/libpccl.so and bin/pccl-master; default: dist, where `make lib` leaves them. PYTHON
# names the interpreter (default: python3). torch comes from PyPI, with all that CUDA needs, or without it from
# TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu. The environment is kept in .build and used again.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
prefix=$root/dist
case ${1:-} in
'' | -*) ;;
*)
    prefix=$(cd "$1" && pwd)
    shift
    ;;
esac
library=$prefix/lib/libpccl.so
if [ ! -f "$library" ]; then
    echo "$0: $library is missing; run \`make lib\` first" >&2
    exit 2
fi

python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
environment=$root/.build/example-venv
install="$environment/bin/pip install --quiet --disable-pip-version-check"
if [ "$(cat "$environment/made-with" 2>/dev/null)" != "$version" ]; then
    echo "making $environment"
    rm -rf "$environment"
    mkdir -p "$root/.build"
    "$python" -m venv "$environment"
    # shellcheck disable=SC2086
    $install 'pip>=23.1' 'setuptools>=77'
    $install ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} torch
    $install 'numpy>=1.21' 'cffi>=1.15' matplotlib
    # Written last: an environment whose making was interrupted is made again.
    echo "$version" >"$environment/made-with"
fi

# Without build isolation and dependencies, so that nothing is fetched once the environment exists.
PCCL_LIBRARY=$library $install --no-build-isolation --no-deps --force-reinstall "$here"

# The example must find the library in the package, as a user's program would.
unset PCCL_LIBRARY
exec "$environment/bin/python" "$here/examples/train_gpt.py" all --pccl-master "$prefix/bin/pccl-master" "$@"
