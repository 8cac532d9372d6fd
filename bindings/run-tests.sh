#!/usr/bin/env bash
# The tests of the bindings for C++, Rust and Go against an installed tree: what each wraps, in one process and a master
# beside it, and then peers of each, as processes (drive.py).
#
#     bindings/run-tests.sh [PREFIX [LANGUAGE...]]      "dist" and all of: cpp rust go
#
# Rust and Go are left out, with a line that says so, where cargo or go is not there. What is built goes to
# .build/bindings. Prints "ok NAME" or "FAILED NAME" for each, and ends with a non-zero status if any failed.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/.." && pwd)
prefix=${1:-dist}
[ $# -eq 0 ] || shift
languages=" ${*:-cpp rust go} "
for file in include/pccl.h include/pccl.hpp lib/libpccl.so lib/pkgconfig/pccl.pc bin/pccl-master; do
    if [ ! -e "$prefix/$file" ]; then
        echo "$0: $prefix has no $file; build and install the library there first" >&2
        exit 2
    fi
done
prefix=$(cd "$prefix" && pwd)
built=$root/.build/bindings
mkdir -p "$built"
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig

# shellcheck source=../Tests/checks.sh
. "$root/Tests/checks.sh"
set +e # each check counts its own failure

master=
end_master() {
    [ -z "$master" ] || kill "$master" 2>/dev/null
    rm -rf "$work"
}
trap end_master EXIT

: >"$work/master.log"
"$prefix/bin/pccl-master" --listen 127.0.0.1 --port 0 --no-journal 2>"$work/master.log" &
master=$!
address=
for _ in $(seq 200); do
    address=$(sed -n 's/^pccl-master: listening on //p' "$work/master.log")
    [ -z "$address" ] && kill -0 "$master" 2>/dev/null || break
    sleep 0.05
done
if [ -z "$address" ]; then
    echo "FAILED to start a master:" >&2
    cat "$work/master.log" >&2
    exit 1
fi

wants() { case $languages in *" $1 "*) ;; *) return 1 ;; esac }
skipped() { # in CI everything has to be there
    echo "SKIPPED $1: there is no $2 here (scripts/bootstrap --bindings gets it)"
    [ "${CI:-}" != true ] || failed=1
}
examples=()

documented() { # documented LANGUAGE: the program in docs/bindings.md
    awk -v start="^\`\`\`$1(,|$)" '/^```$/ { inside = 0 } inside; $0 ~ start { inside = 1 }' "$root/docs/bindings.md"
}

two_average() { # two_average PROGRAM: as docs/bindings.md says of its programs
    timeout 30 "$1" "$address" 1 >"$work/one" 2>&1 &
    local one=$!
    timeout 30 "$1" "$address" 2 >"$work/two" 2>&1
    local status=$?
    wait "$one" && [ $status -eq 0 ] && grep -q '^2 peers, average 1.5$' "$work/one" &&
        grep -q '^2 peers, average 1.5$' "$work/two" || { cat "$work/one" "$work/two"; return 1; }
}

# --- C++

newer() { # newer RESULT SOURCE...: whether the result has to be made
    local result=$1 source
    shift
    [ -e "$result" ] || return 0
    for source in "$@" "$prefix/include/pccl.hpp" "$prefix/include/pccl.h" "$prefix/include/pccl_ext.h"; do
        [ "$source" -nt "$result" ] && return 0
    done
    return 1
}

compile() { # compile RESULT SOURCE [OPTION...]: as a user does, through pkg-config
    local result=$1 source=$2
    shift 2
    newer "$result" "$source" || return 0
    # Unquoted: the flags are words.
    # shellcheck disable=SC2046
    ${CXX:-c++} -std=c++17 -Wall -Wextra -Wpedantic -Werror "$@" "$source" $(pkg-config --cflags --libs pccl) \
        -pthread -o "$result"
}

# A header has to be quiet with the warnings of others too.
syntax() { ${CXX:-c++} -fsyntax-only -Wall -Wextra -Wpedantic -Wshadow -Wconversion -Wold-style-cast -Werror -I"$prefix/include" "$@"; }

refuses() { # refuses CASE REASON
    if syntax -std=c++17 "-DCASE=$1" "$here/cpp/tests/refused.cpp" 2>"$work/refusal"; then
        echo "compiles, and should not"
        return 1
    fi
    grep -q "$2" "$work/refusal" || { cat "$work/refusal"; return 1; }
}

with_cmake() {
    mkdir -p "$work/cmake"
    cat >"$work/cmake/CMakeLists.txt" <<TEXT
cmake_minimum_required(VERSION 3.10)
project(average CXX)
find_package(pccl 0.1 REQUIRED)
add_executable(average $here/cpp/examples/average.cpp)
target_compile_features(average PRIVATE cxx_std_17)
target_link_libraries(average PRIVATE pccl::pccl)
TEXT
    cmake -S "$work/cmake" -B "$work/cmake/build" -DCMAKE_PREFIX_PATH="$prefix" &&
        cmake --build "$work/cmake/build" &&
        { "$work/cmake/build/average" nonsense 1 1 2>&1 || true; } | grep "expected host:port"
}

show() { # the lines of a program that makes checks of its own, with its failures
    "$@" >"$work/lines" 2>"$work/errors"
    local status=$?
    cat "$work/lines"
    [ $status -eq 0 ] || { tail -n 40 "$work/errors"; return 1; }
}

if wants cpp; then
    check "cpp: compiles as C++20 too" syntax -std=c++20 "$here/cpp/tests/refused.cpp"
    check "cpp: refuses a buffer that ends with the statement" refuses 1 "give it a name"
    check "cpp: refuses a result in a const buffer" refuses 2 "which is const"
    check "cpp: refuses two element types" refuses 3 "the same element type"
    check "cpp: refuses an entry that ends with the statement" refuses 4 "give it a name"
    check "cpp: checks compile" \
        compile "$built/checks" "$here/cpp/tests/checks.cpp" -O1 -g -fsanitize=address,undefined &&
        { show timeout 60 "$built/checks" "$address" | sed 's/^\(ok\|FAILED\) /\1 cpp: /'
          [ "${PIPESTATUS[0]}" -eq 0 ] || failed=1; }
    check "cpp: example compiles" compile "$built/average-cpp" "$here/cpp/examples/average.cpp" -O2 &&
        examples+=("cpp=$built/average-cpp")
    mkdir -p "$built/documented"
    documented cpp >"$built/documented/main.cpp"
    check "cpp: documented program compiles" \
        compile "$work/documented-cpp" "$built/documented/main.cpp" -O1 &&
        check "cpp: documented program" two_average "$work/documented-cpp"
    if command -v cmake >/dev/null; then
        check "cpp: found by CMake" with_cmake
    else
        skipped "cpp: found by CMake" cmake
    fi
fi

# --- Rust

cargo_in() ( # cargo_in COMMAND...: with what it builds away from the sources
    cd "$here/rust" || exit 1
    export CARGO_TARGET_DIR=$built/rust PCCL_TEST_MASTER=$address
    # Programs of the documentation get no run path.
    export LD_LIBRARY_PATH=$prefix/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
    exec timeout 200 cargo "$@" --offline --locked
)

rust_tests() { # each test of cargo is a line
    cargo_in test --no-fail-fast >"$work/lines" 2>"$work/errors"
    local status=$?
    sed -n 's/^test \(.*\) \.\.\. ok$/ok rust: \1/p; s/^test \(.*\) \.\.\. FAILED$/FAILED rust: \1/p' "$work/lines"
    [ $status -eq 0 ] || { grep -v '^test .* ok$' "$work/lines"; tail -n 60 "$work/errors"; return 1; }
}

# A program of somebody else, which depends on the crate as its README says.
documented_rust() (
    mkdir -p "$built/documented-rust/src" && cd "$built/documented-rust" || exit 1
    documented rust >src/main.rs
    printf '[package]\nname = "documented"\nversion = "0.0.0"\nedition = "2021"\n[dependencies]\npccl = { path = "%s" }\n' \
        "$here/rust" >Cargo.toml
    sed -n '/^fn main() {$/,/^}$/{p; /^}$/q}' "$here/rust/README.md" >build.rs
    CARGO_TARGET_DIR=$built/rust timeout 200 cargo build --offline
)

if wants rust; then
    if command -v cargo >/dev/null; then
        check "rust: documented program compiles" documented_rust &&
            check "rust: documented program" two_average "$built/rust/debug/documented"
        check "rust: example compiles" cargo_in build --release --example average &&
            examples+=("rust=$built/rust/release/examples/average")
        rust_tests || failed=1
    else
        skipped rust cargo
    fi
fi

# --- Go

go_in() ( # go_in FOLDER COMMAND...
    cd "$1" || exit 1
    shift
    # -mod: nothing is fetched, and no file of the module is changed.
    export GOCACHE=$built/go GOFLAGS=-mod=readonly GOPROXY=off PCCL_TEST_MASTER=$address
    exec timeout 200 go "$@"
)

go_tests() { # each test of go is a line
    # The strictest of cgo's checks of pointers.
    GODEBUG=cgocheck=2 go_in "$here/go" test -count=1 -timeout 60s -v . >"$work/lines" 2>"$work/errors"
    local status=$?
    sed -n 's/^--- PASS: \([^ ]*\) .*/ok go: \1/p; s/^--- FAIL: \([^ ]*\) .*/FAILED go: \1/p
        s/^--- SKIP: \([^ ]*\) .*/SKIPPED go: \1/p' "$work/lines"
    [ $status -eq 0 ] || { grep -vE '^(--- PASS|=== RUN)' "$work/lines"; tail -n 60 "$work/errors"; return 1; }
}

documented_go() {
    local folder=$built/documented-go
    mkdir -p "$folder"
    documented go >"$folder/main.go"
    printf 'module documented\n\ngo 1.18\n\nrequire swift-pccl/bindings/go v0.0.0\n\nreplace swift-pccl/bindings/go => %s\n' \
        "$here/go" >"$folder/go.mod"
    go_in "$folder" build -o "$built/documented-go/documented" .
}

if wants go; then
    if command -v go >/dev/null; then
        check "go: vet" go_in "$here/go" vet ./...
        go_tests || failed=1
        check "go: documented program compiles" documented_go &&
            check "go: documented program" two_average "$built/documented-go/documented"
        check "go: example compiles" go_in "$here/go" build -o "$built/average-go" ./examples/average &&
            examples+=("go=$built/average-go")
    else
        skipped go go
    fi
fi

# --- peers as processes

if [ ${#examples[@]} -gt 0 ]; then
    timeout 200 "${PYTHON:-python3}" "$here/drive.py" "$prefix/bin/pccl-master" "${examples[@]}" || failed=1
fi
exit $failed
