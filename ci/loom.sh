#!/bin/sh
# Explores every interleaving of the lock-free parts, then leaves each of the mailbox's two fences out and
# demands that the exploration notices: a model that cannot fail proves nothing.
set -eu
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/loom"

explore() {
    RUSTFLAGS="--cfg loom ${1:-}" cargo test -p spindle-reactor --release --lib loom 2>&1
}

explore || { echo "loom: an interleaving breaks the lock-free parts" >&2; exit 1; }

for fence in planted_fence_sender planted_fence_receiver; do
    if output=$(explore "--cfg $fence"); then
        echo "loom: did not notice that a fence is missing ($fence)" >&2
        exit 1
    fi
    # It must have failed in the test and for the reason, not for instance in the build.
    case "$output" in
    *"the receiver sleeps and nobody has rung"*) echo "loom: noticed $fence" ;;
    *)
        printf '%s\n' "$output" >&2
        echo "loom: failed for another reason than the missing fence ($fence)" >&2
        exit 1
        ;;
    esac
done

# The pages of a RAM disk: with the check of a partial write, or the order of folding, taken out.
pages() {
    RUSTFLAGS="--cfg loom ${1:-}" cargo test -p spindle-mem --release --lib page_entry 2>&1
}

pages || { echo "loom: an interleaving breaks the page table" >&2; exit 1; }

for fault in planted_blind_patch:two_writers_of_halves_lose_nothing \
    planted_late_fold:readers_that_are_folded_into_the_page_still_hold_it; do
    if output=$(pages "--cfg ${fault%%:*}"); then
        echo "loom: did not notice ${fault%%:*}" >&2
        exit 1
    fi
    case "$output" in
    *"${fault##*:} ... FAILED"*) echo "loom: noticed ${fault%%:*}" ;;
    *)
        printf '%s\n' "$output" >&2
        echo "loom: failed for another reason than ${fault%%:*}" >&2
        exit 1
        ;;
    esac
done
