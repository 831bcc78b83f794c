#!/usr/bin/env python3
"""libiscsi's conformance suite (Debian's iscsi-test-cu) against a RAM disk, a file, one past the page cache, a block device.

No failure; no skip but those listed in libiscsi-skips.txt with the reason; and as many tests as the list says.

Usage: libiscsi.py [--backend ram|file|direct|block] [--test FAMILY.SUITE.TEST] [--url URL]
"""

import argparse
import contextlib
import pathlib
import re
import subprocess
import sys
import tempfile
import time

from loops import loop, needed
from target import demo

# Tests that want several logical blocks in a physical one.
LARGE_PHYSICAL_BLOCKS = ["CompareAndWrite.InvalidDataOutSize", "WriteSame10.UnmapUnaligned", "WriteSame10.InvalidDataOutSize",
                         "WriteSame16.UnmapUnaligned", "WriteSame16.InvalidDataOutSize"]

HERE = pathlib.Path(__file__).resolve().parent


def expectations():
    """The committed list: how many tests there are, and which of them may skip, with the reason."""
    total, skips = None, {}
    for line in (HERE / "libiscsi-skips.txt").read_text().splitlines():
        words = line.split("#", 1)
        name = words[0].strip()
        if name.startswith("tests ="):
            total = int(name.split("=")[1])
        elif name:
            assert len(words) == 2 and words[1].strip(), f"no reason given: {line!r}"
            skips[name] = words[1].strip()
    return total, skips


def run(url, test):
    """Runs the suite; answers {name: (result, its output)}."""
    # The address twice: tests of several paths to one unit take the second.
    words = ["iscsi-test-cu", "--dataloss", "--verbose", "--test", test, url, url]
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1500, errors="replace")
        output = done.stdout
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode(errors="replace")
        print("the suite hangs; its last words:\n" + output[-2000:])
    results, suite, name, text = {}, None, None, []

    def close():
        if name:
            body = "\n".join(text)
            # What counts is the suite's own verdict; `[FAILED]` in the text may be of a step that was meant to fail.
            if re.search(r"(?<!\[)FAILED(?!\])", body):
                results[name] = ("failed", body)
            elif "[SKIPPED]" in body:
                results[name] = ("skipped", body)
            elif "passed" in body:
                results[name] = ("passed", body)
            else:
                results[name] = ("unfinished", body)

    for line in output.splitlines():
        if match := re.match(r"^Suite: (\S+)", line):
            close()
            name, suite = None, match[1]
        elif match := re.match(r"^\s*Test: (\S+) \.\.\.(.*)", line):
            close()
            name, text = f"{suite}.{match[1]}", [match[2]]
        elif line.startswith("Run Summary"):
            close()
            name = None
            break
        elif name:
            text.append(line)
    close()
    return results, output


@contextlib.contextmanager
def served(backend, folder):
    """The options with which the target serves 1 GiB of this kind."""
    disk, size = f"{folder}/disk", "1G"
    if backend == "ram":
        yield ["--size", size]
    elif backend == "block":
        needed()
        with loop(disk, 1 << 30) as device:
            yield ["--file", device]
    else:
        yield ["--file", disk, "--size", size, *(["--direct"] if backend == "direct" else [])]


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--backend", default="ram", choices=["ram", "file", "direct", "block"])
    options.add_argument("--test", default="ALL")
    options.add_argument("--url")
    options = options.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spindle-libiscsi-", dir=".") as folder:
        if options.url:
            results, output = run(options.url, options.test)
        else:
            # One of its tests (GetLBAStatus.UnmapSingle) counts wrongly where a physical block has several logical
            # ones, others run only there: so both kinds of disk are tested.
            with served(options.backend, folder) as words:
                with demo(*words, "--physical-block-size", "512", folder=folder) as target:
                    results, output = run(target.url, options.test)
                if options.test == "ALL":
                    with demo(*words, folder=folder) as target:
                        for test in LARGE_PHYSICAL_BLOCKS:
                            results |= run(target.url, f"ALL.{test}")[0]
    total, may_skip = expectations()
    bad = []
    for name, (result, text) in results.items():
        if result == "skipped" and name not in may_skip:
            bad.append((name, "skipped, and not on the list", text))
        elif result in ("failed", "unfinished"):
            bad.append((name, result, text))
    for name, what, text in bad:
        print(f"--- {name}: {what}\n{text}")
    if options.test == "ALL" and len(results) != total:
        bad.append(("number of tests", f"{len(results)} ran, {total} are expected", ""))
        print(f"{len(results)} tests ran, {total} are expected; the end of the output:\n{output[-1500:]}")
    count = {r: sum(1 for x, _ in results.values() if x == r) for r in ("passed", "skipped", "failed", "unfinished")}
    print(f"RESULT: {options.backend}: {count['passed']} passed, {count['skipped']} skipped, {count['failed']} failed, "
          f"{count['unfinished']} unfinished in {time.monotonic() - started:.0f} s")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main()
