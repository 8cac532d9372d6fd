#!/usr/bin/env bash
# libFuzzer on the targets of Tests/Fuzz/Targets, with the address sanitizer.
#
#     Tests/Fuzz/run.sh SECONDS [TARGET...]     builds, and runs each target for so long from its corpus
#     Tests/Fuzz/run.sh minimize [TARGET...]    makes the corpora as small as they can be: what git keeps
#     Tests/Fuzz/run.sh input TARGET FILE...    runs these inputs alone
#
# What is found on the way is kept in .build/fuzz/found, what fails in Tests/Fuzz/crashes. Prints a line for each target,
# and ends with a non-zero status if any failed.
set -u
cd "$(dirname "$0")/../.." || exit 2

work=.build/fuzz
crashes=Tests/Fuzz/crashes
all_targets=(to-master to-peer frames master-state journal codecs hash master peer)
limits=(-rss_limit_mb=2048 -malloc_limit_mb=256 -timeout=10)

# The reports of the Swift runtime are made by another process, which libFuzzer and the sanitizer stand in the way of.
export SWIFT_BACKTRACE=enable=no
export ASAN_OPTIONS=detect_leaks=0:abort_on_error=0

usage() { sed -n '4,6s/^# *//p' "$0" >&2; exit 2; }
[ $# -gt 0 ] || usage

# The package manager has no fuzzer among its sanitizers, so the rooms are compiled one by one. Of the session only the
# journal is needed. gold warns of every symbol of the sanitizer.
swift_options=(-O -wmo -parse-as-library -package-name swift_pccl -swift-version 6 -module-cache-path "$work/cache"
    -sanitize=fuzzer,address -I "$work" -I Sources/CUV -I Sources/COpenSSL -I Sources/CZstd -Xcc -ISources/CKernels/include -Xcc -ISources/CShims/include -Xcc -ISources/CTLS/include
    -Xcc -fmodule-map-file=.build/fuzz/CKernels.modulemap -Xcc -fmodule-map-file=.build/fuzz/CShims.modulemap
    -Xcc -fmodule-map-file=.build/fuzz/CTLS.modulemap
    -static-stdlib -use-ld=lld)

# room NAME FILE...: compiled again only if it, or one before it, has changed.
room() {
    local name=$1 object=$work/$1.o
    shift
    objects+=("$object")
    if [ "${stale:-}" = "" ] && [ "$object" -nt Tests/Fuzz/run.sh ] &&
        [ -z "$(find "$@" -newer "$object")" ]; then
        return
    fi
    stale=yes
    echo "compiling $name"
    swiftc "${swift_options[@]}" -module-name "$name" -emit-module -emit-module-path "$work/$name.swiftmodule" \
        -c "$@" -o "$object" || { rm -f "$object"; exit 1; }
}

sources() { find "$@" -name '*.swift' | sort; }

build() {
    local stale= name file objects=()
    mkdir -p "$work" "$work/found" "$crashes"
    # Two of these may run side by side.
    exec 9>"$work/lock"
    flock 9
    for name in CKernels CShims CTLS; do
        printf 'module %s { umbrella "%s" export * }\n' $name "$PWD/Sources/$name/include" >"$work/$name.modulemap"
        for file in Sources/$name/*.c; do
            objects+=("$work/$name-$(basename "$file" .c).o")
            [ "${objects[-1]}" -nt "$file" ] && [ "${objects[-1]}" -nt Tests/Fuzz/run.sh ] && continue
            clang -O2 -g -fsanitize=address,fuzzer-no-link "-ISources/$name/include" -c "$file" \
                -o "${objects[-1]}" || exit 1
        done
    done
    for name in PCCLBase PCCLWire PCCLRecorder PCCLMembership PCCLCompute PCCLTransport; do
        room $name $(sources Sources/$name)
    done
    room PCCLSession Sources/PCCLSession/MasterJournal.swift
    room PCCLFuzzTargets $(sources Tests/Fuzz/Targets)
    room PCCLFuzz $(sources Tests/Fuzz/Main)
    [ -z "$stale" ] && [ -x "$work/fuzz" ] && return
    swiftc -sanitize=fuzzer,address -static-stdlib -use-ld=lld "${objects[@]}" -luv -lssl -lcrypto -o "$work/fuzz" || exit 1
}

# seed TARGET: the seeds that the target writes are a part of its corpus.
seed() {
    mkdir -p "$work/seeds/$1" "$work/found/$1" "Tests/Fuzz/corpora/$1"
    PCCL_FUZZ_TARGET=$1 PCCL_FUZZ_SEEDS=$work/seeds/$1 "$work/fuzz" >/dev/null 2>&1
}

# fuzz TARGET SECONDS
fuzz() {
    local target=$1 log=$work/$1.log
    seed "$target"
    # More than this finds nothing in messages of a few fields, and is slow.
    if PCCL_FUZZ_TARGET=$target "$work/fuzz" "${limits[@]}" -max_total_time="$2" -max_len=4096 -print_final_stats=1 \
        -artifact_prefix="$crashes/$target-" "$work/found/$target" "Tests/Fuzz/corpora/$target" \
        "$work/seeds/$target" >"$log" 2>&1; then
        awk -v target="$target" '
            / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") coverage = $(i + 1) }
            /^stat::number_of_executed_units/ { runs = $2 }
            /^stat::average_exec_per_sec/ { rate = $2 }
            /^stat::new_units_added/ { new = $2 }
            END { printf "ok %s: %s inputs, %s/s, coverage %s, %s new\n", target, runs, rate, coverage, new }' "$log"
    else
        echo "FAILED $target:"
        grep -aE "Fatal error|ERROR:|SUMMARY|^    #[0-9]+ .*PCCL" "$log" | head -n 12 | cut -c -400 | sed 's/^/    /'
        local input
        input=$(sed -n 's/.*Test unit written to //p' "$log" | tail -n 1)
        echo "    again: Tests/Fuzz/run.sh input $target $input"
        return 1
    fi
}

# minimize TARGET: as few inputs as reach all code that is reached, however often. What once failed (found-*) stays.
minimize() {
    local target=$1 small=$work/small
    seed "$target"
    rm -rf "$small"
    mkdir -p "$small"
    PCCL_FUZZ_TARGET=$target "$work/fuzz" "${limits[@]}" -merge=1 -use_counters=0 -max_len=4096 "$small" \
        "Tests/Fuzz/corpora/$target" "$work/seeds/$target" "$work/found/$target" >"$work/$target.log" 2>&1 || return 1
    find "Tests/Fuzz/corpora/$target" -type f ! -name 'found-*' -delete
    cp "$small"/* "Tests/Fuzz/corpora/$target/"
    echo "$target: $(ls "$small" | wc -l) inputs, $(du -bs "$small" | cut -f 1) bytes"
}

command=$1
shift
build
exec 9>&-
failed=0
case $command in
input)
    [ $# -gt 1 ] || usage
    target=$1
    shift
    PCCL_FUZZ_TARGET=$target exec "$work/fuzz" "${limits[@]}" "$@"
    ;;
minimize)
    for target in "${@:-${all_targets[@]}}"; do minimize "$target" || failed=1; done
    ;;
*[!0-9]*) usage ;;
*)
    for target in "${@:-${all_targets[@]}}"; do fuzz "$target" "$command" || failed=1; done
    ;;
esac
exit $failed
