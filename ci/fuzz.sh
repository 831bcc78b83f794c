#!/usr/bin/env bash
# Gives every fuzz target its minute, as many at once as there are processors; or proves that they find something.
#
# Usage: ci/fuzz.sh [TARGET...]    all targets of tests/fuzz, or these
#        ci/fuzz.sh --prove        a panic planted behind a valid login and a WRITE has to be found within the time
#
# SPINDLE_FUZZ_SECONDS   for each target (60)
# SPINDLE_FUZZ_JOBS      targets at once (the number of processors)
# SPINDLE_NO_NIGHTLY=1   without a nightly compiler, skip instead of failing
#
# What was learnt stays in target/fuzz/corpus and is the start of the next run. An input that fails is minimised and
# printed with the command that repeats it.
set -euo pipefail
cd "$(dirname "$0")/.."

fuzz_dir=tests/fuzz/fuzz
out="${CARGO_TARGET_DIR:-target}/fuzz"
seconds="${SPINDLE_FUZZ_SECONDS:-60}"
jobs="${SPINDLE_FUZZ_JOBS:-$(nproc)}"
triple=$(rustc -vV | sed -n 's/^host: //p')
bin="$out/build/$triple/release"

build() {
    # Without AddressSanitizer: what is unsafe here lives in memory of its own (mmap), which it does not see. Without a
    # call for each comparison: words come from dictionaries, and the minute goes four times as far.
    CARGO_TARGET_DIR="$out/build" cargo +nightly fuzz build --fuzz-dir "$fuzz_dir" --sanitizer none --release \
        --debug-assertions --no-trace-compares "$@"
}

# Becomes the target $1 with what follows: call it in a subshell. The exit code is that of libFuzzer: 0, or not when an
# input failed.
fuzz() {
    local target=$1 bytes_max dict=()
    shift
    bytes_max=$(awk -v t="$target" '$1 == t { print $2 }' "$out/targets")
    [ ! -e "$out/seeds/$target.dict" ] || dict=("-dict=$out/seeds/$target.dict")
    exec "$bin/$target" -max_len="$bytes_max" -timeout=10 -len_control=0 -rss_limit_mb=1024 -print_final_stats=1 \
        "${dict[@]}" "$@"
}

# One target's minute; leaves a line of figures, or the failing input.
one() {
    local target=$1 corpus="$out/corpus/$1" artifacts="$out/artifacts/$1" log="$out/logs/$1.log" found small
    rm -rf "$artifacts"
    mkdir -p "$corpus" "$artifacts"
    if (fuzz "$target" -max_total_time="$seconds" -artifact_prefix="$artifacts/" "$corpus" "$out/seeds/$target") \
        >"$log" 2>&1; then
        awk -v t="$target" '
            /^#/ { for (i = 1; i < NF; i++) { if ($i == "cov:") cov = $(i + 1); if ($i == "ft:") ft = $(i + 1) } }
            /number_of_executed_units/ { runs = $2 }
            /average_exec_per_sec/ { rate = $2 }
            END { printf "%-12s %10d executions  %6d/s  %6d edges  %6d features\n", t, runs, rate, cov, ft }
        ' "$log" | tee "$out/logs/$target.figures"
        return 0
    fi
    grep -aE "panicked at|ERROR: libFuzzer" -A 2 "$log" | head -n 12
    found=$(find "$artifacts" -type f | head -n 1)
    if [ -z "$found" ]; then
        echo "fuzz: $target failed without an input; see $log"
        return 1
    fi
    small="$artifacts/minimised"
    (fuzz "$target" -minimize_crash=1 -max_total_time=30 -exact_artifact_path="$small" "$found") >>"$log" 2>&1 || true
    [ -s "$small" ] || cp "$found" "$small"
    echo "fuzz: $target fails with these $(stat -c %s "$small") bytes:"
    od -An -v -tx1 "$small" | head -n 40
    echo "fuzz: repeat with: cargo run -p spindle-fuzz -- replay $target $small"
    echo "fuzz: as a test: cp $small tests/fuzz/regressions/$target/NAME && cargo test -p spindle-fuzz"
    return 1
}

# All processors look for the planted panic; the first to find one is enough. A quiet machine needs half a minute: the rest is
# patience with a busy one.
prove() {
    local corpus start n pids=() found=0
    build --features planted_panic session
    corpus=$(mktemp -d)
    mkdir -p "$out/artifacts"
    rm -f "$out"/artifacts/prove-*
    start=$(date +%s)
    for n in $(seq "$jobs"); do
        fuzz session -max_total_time="$((seconds * 3))" -artifact_prefix="$out/artifacts/prove-" "$corpus" "$out/seeds/session" \
            >"$out/logs/prove-$n.log" 2>&1 &
        pids+=($!)
    done
    for n in $(seq "$jobs"); do
        # One that has been waited for already is no longer known: that is not a find.
        wait -n "${pids[@]}" 2>/dev/null || { [ $? -eq 127 ] || found=1; break; }
    done
    kill "${pids[@]}" 2>/dev/null || true
    wait "${pids[@]}" 2>/dev/null || true
    rm -rf "$corpus"
    if [ "$found" -eq 0 ]; then
        echo "fuzz: the planted panic was not found within $((seconds * 3)) s" >&2
        exit 1
    fi
    if ! grep -aq "the planted panic: a WRITE" "$out"/logs/prove-*.log; then
        echo "fuzz: failed for another reason than the planted panic:" >&2
        tail -n 40 "$out"/logs/prove-*.log >&2
        exit 1
    fi
    echo "RESULT: the panic planted behind a login and a WRITE was found after $(($(date +%s) - start)) s"
}

if [ "${1:-}" = --one ]; then
    one "$2"
    exit
fi

if ! cargo +nightly --version >/dev/null 2>&1; then
    if [ "${SPINDLE_NO_NIGHTLY:-}" = 1 ]; then
        echo "RESULT: skipped, there is no nightly compiler (SPINDLE_NO_NIGHTLY=1)"
        exit 0
    fi
    echo "fuzz: needs a nightly compiler (rustup toolchain install nightly --profile minimal)," >&2
    echo "fuzz: or SPINDLE_NO_NIGHTLY=1 to go without" >&2
    exit 1
fi
cargo fuzz --version >/dev/null 2>&1 || ci/install-cargo-fuzz
mkdir -p "$out/logs"
rm -rf "$out/seeds"
cargo run --quiet -p spindle-fuzz -- seeds "$out/seeds"
cargo run --quiet -p spindle-fuzz -- list >"$out/targets"
if [ "${1:-}" = --prove ]; then
    prove
    exit
fi
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(awk '{ print $1 }' "$out/targets")
# A target of the table without a program, or the other way round, would never run.
diff <(awk '{ print $1 }' "$out/targets" | sort) <(cd "$fuzz_dir/fuzz_targets" && ls | sed 's/\.rs$//' | sort)
build
rm -f "$out"/logs/*.figures
failed=0
printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} "$0" --one {} || failed=1
[ "$failed" -eq 0 ] || { echo "fuzz: at least one target found a failing input, see above" >&2; exit 1; }
cat "$out"/logs/*.figures | awk '
    { runs += $2; edges += $5; features += $7 }
    END { printf "RESULT: %d targets, %.1f million executions, %d edges, %d features\n", NR, runs / 1e6, edges, features }
'
