#!/usr/bin/env bash
# House rules that no compiler checks: who imports whom, where unsafe lives, no left-overs, file lengths (a remark).
set -euo pipefail
cd "$(dirname "$0")/.."
bad=0
say() { echo "tidy: $*"; bad=1; }

# Who may import whom (docs/ARCHITECTURE.md): crate, then the crates of ours it may name.
check_imports() {
    local dir=$1 allowed=$2 found
    for found in $(grep -ohE '^spindle-[a-z-]+' <(sed -n '/^\[dependencies\]/,/^\[/p' "$dir/Cargo.toml") | sort -u); do
        case " $allowed " in *" $found "*) ;; *) say "$dir imports $found, which its place in the house does not allow" ;; esac
    done
}
check_imports ffi/os ""
check_imports ffi/uring ""
check_imports reactor "spindle-ffi-os"
check_imports reactor/mem "spindle-reactor spindle-ffi-os"
check_imports scsi/spec ""
check_imports scsi/port "spindle-scsi-spec spindle-mem spindle-reactor"
check_imports scsi "spindle-scsi-port spindle-scsi-spec spindle-bdev spindle-mem spindle-reactor"
check_imports transports/iscsi/wire ""
check_imports transports/net "spindle-mem spindle-reactor spindle-ffi-os"
check_imports transports/iscsi "spindle-iscsi-wire spindle-net spindle-scsi-port spindle-scsi-spec spindle-mem spindle-reactor"
check_imports bdev "spindle-mem spindle-reactor"
check_imports bdev/uring "spindle-bdev spindle-mem spindle-reactor spindle-ffi-uring spindle-ffi-os"
check_imports conf ""

# Unsafe lives in rooms with a sign; each room and its number of blocks stands in ci/unsafe.txt.
actual=$(git ls-files '*.rs' | xargs grep -cE '\bunsafe( impl| fn|[[:space:]]*\{| extern)' | grep -v ':0$' | sort || true)
if ! diff <(grep -v '^#' ci/unsafe.txt | sort) <(echo "$actual") >/tmp/tidy.$$; then
    say "unsafe code differs from ci/unsafe.txt (< the list, > the tree):"
    cat /tmp/tidy.$$
fi
rm -f /tmp/tidy.$$
for file in $(echo "$actual" | cut -d: -f1); do
    grep -q '// UNSAFETY:' "$file" || say "$file has unsafe code and no UNSAFETY sign"
done

if git grep -nE 'todo!\(|unimplemented!\(|\b(TODO|FIXME|XXX)\b' -- '*.rs' '*.sh' '*.py' ':!ci/tidy.sh'; then
    say "left-overs, see above"
fi
git ls-files '*.rs' | xargs wc -l | awk '$1 > 700 && $2 != "total" { print "remark: " $2 " has " $1 " lines" }'
citations=$(git grep -hoE '(RFC 7143|RFC 7144|SAM-5|SPC-[45]|SBC-[34]) §[0-9A-Za-z.]+' -- '*.rs' | sort -u | wc -l)
echo "RESULT: $citations clauses of the standards are cited in the code"
exit $bad
