#!/bin/sh
# Installs the package, with the library of PREFIX packed in, into a virtual environment and runs its tests.
#
#     bindings/python/run-tests.sh [PREFIX] [arguments of pytest...]
#
# PREFIX is the folder that has lib/libpccl.so; default: dist, where `make lib` leaves it. PYTHON names the interpreter
# (default: python3). The environment is kept in .build and used again, so that only the first run takes long.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
prefix=$root/dist
if [ $# -gt 0 ]; then
    prefix=$(cd "$1" && pwd)
    shift
fi
library=$prefix/lib/libpccl.so
if [ ! -f "$library" ]; then
    echo "$0: $library is missing; run \`make lib\` first" >&2
    exit 2
fi

python=${PYTHON:-python3}
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])')
environment=$root/.build/python-venv
if [ "$(cat "$environment/made-with" 2>/dev/null)" != "$version" ]; then
    rm -rf "$environment"
    mkdir -p "$root/.build"
    "$python" -m venv "$environment"
    "$environment/bin/pip" install --quiet --disable-pip-version-check \
        'pip>=23.1' 'setuptools>=77' 'numpy>=1.21' 'cffi>=1.15' 'pytest>=7' ml_dtypes safetensors
    # Written last: an environment whose making was interrupted is made again.
    echo "$version" >"$environment/made-with"
fi

# Without build isolation and dependencies, so that nothing is fetched once the environment exists.
PCCL_LIBRARY=$library "$environment/bin/pip" install --quiet --disable-pip-version-check \
    --no-build-isolation --no-deps --force-reinstall "$here"

# The tests must find the library in the package, as a user's program would.
unset PCCL_LIBRARY
cd "$here"
exec "$environment/bin/python" -m pytest "$@"
