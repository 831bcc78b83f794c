#!/usr/bin/env bash
# Plants every mistake that the project knows, one after the other, and demands that a test finds it: the simulation
# within its 200 seeds, a named test, loom, or the durability test. What docs/testing.md lists.
# Usage: ci/planted.sh [sim|named|loom|durability]...     without arguments: all of it
set -euo pipefail
cd "$(dirname "$0")/.."
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(sim named loom durability)
missed=()

# Mistakes that the simulation cannot see, or in one seed of hundreds, and who does: mistake, package, where, test.
named='
status-after-abort          spindle-scsi   --lib           tests::storm::no_storm_leaves_a_command_a_buffer_or_an_answer_behind
reservation-published-late  spindle-scsi   --lib           tests::reservations::a_reservation_is_answered_only_when_every_core_knows
gate-closed-early           spindle-scsi   --lib           tests::gates::compare_and_write_waits_for_writes_that_have_begun
attentions-left-behind      spindle-scsi   --lib           tests::moves::nothing_that_happens_on_the_way_is_lost_or_told_twice
shrunk-early                spindle-scsi   --lib           tests::gates::a_unit_has_shrunk_when_nothing_beyond_its_new_end_is_under_way
stale-ttt                   spindle-iscsi  --test=faults   a_stale_transfer_tag_never_hits_the_next_holder_of_its_row
reader-stops                spindle-iscsi  --test=faults   a_reader_goes_on_while_a_command_waits_for_memory
'

sim() {
    cargo build --quiet -p spindle-sim --features planted
    local but
    but=$(awk 'NF { printf "%s%s", sep, $1; sep = "," }' <<<"$named")
    target/debug/spindle-sim --plant all --but "$but" --seeds 0..200 || missed+=(sim)
}

# The test passes without the mistake and fails with it: for the reason, not for instance in the build.
named() {
    local bug package where test output
    while read -r bug package where test; do
        [ -n "$bug" ] || continue
        run() {
            cargo test --quiet -p "$package" --features planted "$where" -- --exact "$test" 2>&1
        }
        if ! output=$(run) || ! grep -q '^test result: ok. 1 passed' <<<"$output"; then
            printf '%s\n%s: %s does not pass without it\n' "$output" "$bug" "$test"
            missed+=("$bug")
        elif output=$(SPINDLE_PLANTED=$bug run) || ! grep -q "^---- $test stdout ----" <<<"$output"; then
            printf '%s\n%s: NOT FOUND by %s\n' "$output" "$bug" "$test"
            missed+=("$bug")
        else
            echo "$bug: found by $test"
        fi
    done <<<"$named"
}

loom() {
    ci/loom.sh || missed+=(loom)
}

durability() {
    python3 ci/e2e/durability.py --planted || missed+=(durability)
}

for part in "${parts[@]}"; do "$part"; done
if [ ${#missed[@]} -gt 0 ]; then
    echo "RESULT: not found: ${missed[*]}"
    exit 1
fi
echo "RESULT: every planted mistake found (${parts[*]})"
