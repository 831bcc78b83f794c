#!/usr/bin/env bash
# Counts our instructions per command under valgrind and fails if one is over perf/micro/budget.toml.
# Usage: ci/micro.sh [SCENARIO...] [--where-spent] [--functions] [--keep FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
command -v valgrind >/dev/null || { echo "micro: valgrind is not there; ci/install installs it" >&2; exit 1; }
cargo build --release --quiet -p spindle-micro
exec target/release/spindle-micro check "$@"
