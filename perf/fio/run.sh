#!/usr/bin/env bash
# Runs the job files of perf/fio/jobs and prints a table.
#   perf/fio/run.sh iscsi://127.0.0.1:3260/IQN/0 [JOB...]   fio logs in itself, through libiscsi
#   perf/fio/run.sh /dev/sdX [JOB...]                       over the kernel initiator; THE DEVICE IS OVERWRITTEN
#   perf/fio/run.sh /folder/file [JOB...]                   what the file itself gives; IT IS OVERWRITTEN
# JOB is the name of a job file without its ending; all but `verify` if none is given.
# Environment: SECONDS_EACH (5), SIZE of the part used (256M), GENERATOR_CPU to tie fio to, FIO the program, ENGINE (io_uring)
# where it is not libiscsi.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
target=${1:?usage: perf/fio/run.sh iscsi://ADDRESS:PORT/TARGET/LUN | /dev/DEVICE | /FOLDER/FILE  [JOB...]}
shift
case $target in
iscsi://*)
    fio=${FIO:-$("$here/../../ci/fio-libiscsi.sh")}
    export ENGINE=libiscsi
    # To fio a colon separates files.
    export TARGET=${target//:/\\:}
    ;;
/*)
    [ -b "$target" ] || [ -f "$target" ] || { echo "$target is neither a block device nor a file" >&2; exit 1; }
    fio=${FIO:-fio}
    export ENGINE=${ENGINE:-io_uring} TARGET=$target
    ;;
*) echo "$target is neither an iscsi:// URL nor the path of a block device or file" >&2; exit 1 ;;
esac
export SECONDS_EACH=${SECONDS_EACH:-5} SIZE=${SIZE:-256M}
pin=()
[ -z "${GENERATOR_CPU:-}" ] || pin=(taskset -c "$GENERATOR_CPU")
jobs=("$@")
if [ ${#jobs[@]} -eq 0 ]; then
    for file in "$here"/jobs/*.fio; do
        name=$(basename "$file" .fio)
        [ "$name" = verify ] || jobs+=("$name")
    done
fi
out=$(mktemp)
trap 'rm -f "$out"' EXIT
echo "| job | k/s | MB/s | p50 µs | p99 µs | p99.9 µs |"
echo "|---|---:|---:|---:|---:|---:|"
for job in "${jobs[@]}"; do
    file=$here/jobs/$job.fio
    [ -f "$file" ] || { echo "no job file $file" >&2; exit 1; }
    "${pin[@]}" "$fio" --output-format=json --output="$out" "$file" >&2
    python3 - "$job" "$out" <<'PY'
import json, sys
name, path = sys.argv[1:]
text = open(path).read()
job = json.loads(text[text.index("{"):])["jobs"][0]
if job["error"]:
    sys.exit(f"{name}: fio reports error {job['error']}")
sides = [job[side] for side in ("read", "write") if job[side]["total_ios"]]
rate = sum(side["iops"] for side in sides)
data = sum(side["bw_bytes"] for side in sides)
def worst(quantile):
    return max(side["clat_ns"].get("percentile", {}).get(quantile, 0) for side in sides) / 1e3
print(f"| {name} | {rate / 1e3:.1f} | {data / 1e6:.0f} |",
      " | ".join(f"{worst(q):.1f}" for q in ("50.000000", "99.000000", "99.900000")), "|", flush=True)
PY
done
