# Steps with a clock. Sourced by the scripts of this folder.
#
#   step NAME COMMAND...   runs the command, its output in target/ci/NAME.log; prints one line with the minutes;
#                          on failure shows the end of the log and goes on, so that one run tells everything.
#                          With ci_show=1 the output is also printed as it comes: for steps of many minutes.
#   finish                 prints the table of minutes and the closing line; exit code 1 if any step failed.
ci_logs="${SPINDLE_CI_LOGS:-target/ci}"
mkdir -p "$ci_logs"
ci_passed=0
ci_failed=0
ci_table=""

step() {
    local name=$1 start rc took
    shift
    start=$(date +%s.%N)
    printf '%-24s ' "$name"
    if [ -n "${ci_show:-}" ]; then
        echo
        "$@" 2>&1 </dev/null | tee "$ci_logs/$name.log" | sed -u 's/^/    /'
        rc=${PIPESTATUS[0]}
        printf '%-24s ' "$name"
    elif "$@" >"$ci_logs/$name.log" 2>&1 </dev/null; then
        rc=0
    else
        rc=$?
    fi
    took=$(awk -v a="$start" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f", (b - a) / 60 }')
    ci_table+="$(printf '%-24s %8s min' "$name" "$took")"$'\n'
    if [ "$rc" -eq 0 ]; then
        ci_passed=$((ci_passed + 1))
        printf 'ok      %6s min' "$took"
        # A step may leave one line that says what it saw: `RESULT: ...`.
        grep -h '^RESULT: ' "$ci_logs/$name.log" | tail -n 1 | sed 's/^RESULT: /  /' || true
        grep -q '^RESULT: ' "$ci_logs/$name.log" || echo
    else
        ci_failed=$((ci_failed + 1))
        printf 'FAILED  %6s min  (exit code %s; %s)\n' "$took" "$rc" "$ci_logs/$name.log"
        tail -n 60 "$ci_logs/$name.log" | sed 's/^/    | /'
    fi
}

finish() {
    echo
    echo "Minutes of each step:"
    printf '%s' "$ci_table"
    echo
    echo "$ci_passed passed, $ci_failed failed"
    [ "$ci_failed" -eq 0 ]
}
