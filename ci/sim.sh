#!/usr/bin/env bash
# The deterministic simulation: 200 seeds and those with a name (ci/sim-seeds.txt), and every place of its tables
# reached but those excused with a reason.
# Usage: ci/sim.sh [FIRST..END]
set -euo pipefail
cd "$(dirname "$0")/.."
cargo build --quiet -p spindle-sim
target/debug/spindle-sim --seeds "${1:-0..200}" --named ci/sim-seeds.txt --excused ci/sim-excused.txt
