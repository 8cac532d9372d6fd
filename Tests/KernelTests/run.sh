#!/usr/bin/env bash
# The kernels on aarch64: builds them with clang, which is a cross compiler as it is, runs them in an emulator, and
# compares what they write with what the levels of this machine write, bit for bit. Looks into the machine code too,
# for a loop that is no longer vectorised still gives the right bits.
#
#     Tests/KernelTests/run.sh
#
# Prints "ok NAME" or "FAILED NAME" for each check, with the output of those that failed, and ends with a non-zero
# status if any did. Where the emulator or the C library for aarch64 is missing it says so and does nothing; where CI
# is "true" that is a failure.
set -u
cd "$(dirname "$0")/../.." || exit 2

cross=(clang --target=aarch64-linux-gnu)

for tool in clang ld.lld llvm-objdump; do
    if ! command -v $tool >/dev/null; then
        echo "$0: there is no $tool on PATH; the Swift toolchain has one" >&2
        exit 2
    fi
done

# The second name is that of qemu-user-static. Asked for a file that it does not find, clang answers with the bare name.
emulator=$(command -v qemu-aarch64 || command -v qemu-aarch64-static)
missing=()
[ -n "$emulator" ] || missing+=(qemu-user)
[ -e "$("${cross[@]}" -print-file-name=libc.a)" ] || missing+=(libc6-dev-arm64-cross)
[ -e "$("${cross[@]}" -print-file-name=libgcc.a)" ] || missing+=(libgcc-12-dev-arm64-cross)
if [ ${#missing[@]} -gt 0 ]; then
    outcome=SKIPPED
    [ "${CI:-}" != true ] || outcome=FAILED
    echo "$outcome kernels on aarch64: missing ${missing[*]}; to install: scripts/bootstrap --arm" >&2
    [ $outcome = SKIPPED ]
    exit
fi

. Tests/checks.sh

# compile FOLDER ROOM COMPILER...: as a release build does, but that warnings are errors, and one is that a loop which is
# marked to be vectorised was not.
compile() {
    local folder=$work/$1 room=Sources/$2 source
    shift 2
    mkdir -p "$folder"
    for source in "$room"/*.c; do
        "$@" -O2 -Wall -Wextra -Werror "-I$room/include" -c "$source" \
            -o "$folder/$(basename "$source" .c).o" || return 1
    done
}

# link_digests FOLDER COMPILER...
link_digests() {
    local folder=$work/$1
    shift
    "$@" -O2 -Wall -Wextra -Werror -ISources/CKernels/include Tests/KernelTests/digests.c "$folder"/*.o \
        -o "$folder/digests"
}

run_on_aarch64() {
    "$emulator" "$work/aarch64/digests" plain >"$work/aarch64/plain" 2>"$work/aarch64/ways" && [ -s "$work/aarch64/plain" ]
}

# The emulator's processor has both extensions: what is compared below are tables, instructions and streams.
ways_on_aarch64() { grep -x 'crc32c ways: 0 1 2' "$work/aarch64/ways" || { cat "$work/aarch64/ways"; return 1; }; }

same_bits() {
    local level
    for level in plain avx2 avx512; do
        "$work/here/digests" $level >"$work/here/$level" 2>"$work/here/ways"
        if [ $? = 3 ]; then
            echo "skipped same_bits_as_$level: this processor has no such level"
        else
            check "same_bits_as_$level" diff "$work/here/$level" "$work/aarch64/plain"
        fi
    done
}

# --- machine code

disassemble() { llvm-objdump -d --no-show-raw-insn "$work/aarch64/level_plain.o" >"$work/disassembly"; }

# uses INSTRUCTION LANES FUNCTION...: each of the functions has that instruction on vectors of such lanes.
uses() {
    local pattern="[[:space:]]$1[[:space:]].*v[0-9]+[.]$2" function
    shift 2
    for function in "$@"; do
        awk -v name="<$function>:" -v pattern="$pattern" '
            / <.*>:$/ { inside = $2 == name }
            inside && $0 ~ pattern { found = 1 }
            END { exit !found }' "$work/disassembly" || { echo "$function: nothing like $pattern"; return 1; }
    done
}

# arithmetic TYPE LANES
arithmetic() {
    uses fadd "$2" {sum,average}_"$1"_{start,more,end,whole} &&
        uses fmul "$2" product_"$1"_{start,more,end,whole} average_"$1"_{end,whole,finish} &&
        uses fdiv "$2" average_"$1"_{end,whole,finish}
}

float64_loops() { arithmetic f64 2d; }
float32_loops() { arithmetic f32 4s; }

# Floats of 16 bits are worked on as float32.
float16_loops() {
    arithmetic f16 4s && uses fcvtl 4s {sum,average,product}_f16_{load,start,more,end,whole} &&
        uses fcvtn 4h {sum,average,product}_f16_{end,whole,finish}
}
bfloat16_loops() { arithmetic bf16 4s && uses shll 4s {sum,average,product}_bf16_{load,start,more,end,whole}; }

# Of codecs, what their loops are made of: in whole blocks there is no branch on a value.
codec_loops() {
    uses fmul 4s {min_max,zero_point}_{8,16}_f32_{encode,decode,add} {int4,e3m0,e4m3}_{float,power}_{encode,decode,add} &&
        uses fadd 4s {min_max_8,zero_point_8}_f32_add {int4,e3m0,e4m3}_power_add &&
        uses fmul 2d {min_max,zero_point}_{8,16,32}_f64_{encode,decode,add}
}

# A lane adds the product of the halves of its word, in the one instruction that makes 64 bits of two times 32.
hash_loop() { uses '(umlal|umull)2?' 2d pccl_xxh3_plain; }

# --- the checks

check kernels_compile_here compile here CKernels clang &&
    check kernels_compile_for_aarch64 compile aarch64 CKernels "${cross[@]}" &&
    check digests_link_here link_digests here clang &&
    check digests_link_for_aarch64 link_digests aarch64 "${cross[@]}" -static -fuse-ld=lld &&
    check digests_run_on_aarch64 run_on_aarch64 &&
    check checksums_in_all_ways ways_on_aarch64 &&
    same_bits

check disassembly disassemble &&
    for type in float64 float32 float16 bfloat16; do
        check "${type}_in_vectors" ${type}_loops
    done
check codecs_in_vectors codec_loops
check hash_in_vectors hash_loop

check shims_compile_for_aarch64 compile aarch64 CShims "${cross[@]}"

exit $failed
