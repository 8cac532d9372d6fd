# For scripts that make one check after the other, and say for each what came of it: sourced by them. Gives
#
#   $work            a folder that goes with the script
#   $failed          0, or 1 once a check has failed: what to end with
#   check NAME COMMAND...    one line for the outcome, and the command's output only when it failed

work=$(mktemp -d) || exit 2
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
failed=0

check() {
    name=$1
    shift
    if "$@" >"$work/output" 2>&1; then
        echo "ok $name"
    else
        echo "FAILED $name"
        sed 's/^/    /' "$work/output"
        failed=1
        return 1
    fi
}
