#!/usr/bin/env python3
"""fio's verify through its libiscsi engine: random writes of 512 B to 1 MiB, depth 1 and 32, all read back and compared.

On a RAM disk, a file and a file past the page cache. Afterwards a block is changed behind fio's back, which must be seen.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import time

from target import ROOT, demo

# (depth, how block sizes are mixed, bytes written)
ROUNDS = (
    (1, "512", "1M"),
    (1, "512/25:4k/25:20k/20:128k/20:1M/10", "64M"),
    (32, "512", "4M"),
    (32, "4k", "48M"),
    (32, "512/25:4k/25:20k/20:128k/20:1M/10", "192M"),
    (32, "1M", "192M"),
)


def fio(program, url, seed, depth, sizes, total, only_read=False):
    """Writes and verifies; answers (bytes written, bytes read). With `only_read` what an earlier call wrote is verified."""
    words = [program, "--name=verify", "--ioengine=libiscsi", "--thread", "--rw=randwrite",
             # To fio a colon separates files.
             "--filename=" + url.replace(":", "\\:"),
             f"--iodepth={depth}", f"--bssplit={sizes}", f"--size={total}", f"--randseed={seed}",
             "--verify=crc32c", "--verify_fatal=1", "--do_verify=1", "--verify_state_save=0", "--output-format=json"]  # fmt: skip
    words += ["--verify_only"] if only_read else []
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    text = done.stdout
    if done.returncode or "{" not in text:
        raise AssertionError(f"fio ended with {done.returncode}\n{text[-2000:]}\n{done.stderr[-2000:]}")
    job = json.loads(text[text.index("{"):])["jobs"][0]
    assert job["error"] == 0, f"fio reports error {job['error']}"
    return job["write"]["io_bytes"], job["read"]["io_bytes"]


def backends(folder):
    # The engine takes BUSY for an error and does not come again: 32 writes of 1 MiB have to find room, all at once.
    words = ["--size", "256M"]
    return {
        "ram": words,
        "file": [*words, "--file", f"{folder}/disk"],
        "direct": [*words, "--file", f"{folder}/direct", "--direct"],
    }


def a_change_is_seen(program, folder):
    """One byte of the file behind is changed after the writes: fio must find it, or it has verified nothing."""
    path = pathlib.Path(folder, "changed")
    with demo("--size", "64M", "--file", str(path), folder=folder) as target:
        job = (target.url, 7, 32, "4k", "64M")
        fio(program, *job)
        with open(path, "r+b") as file:
            file.seek(12345 * 512)
            byte = file.read(1)
            file.seek(12345 * 512)
            file.write(bytes([byte[0] ^ 1]))
        try:
            fio(program, *job, only_read=True)
        except AssertionError as noticed:
            assert "verify" in str(noticed), noticed
        else:
            raise AssertionError("a changed byte was not seen by fio")


def main():
    program = subprocess.run([ROOT / "ci/fio-libiscsi.sh"], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    started, verified = time.monotonic(), 0
    with tempfile.TemporaryDirectory(prefix="spindle-fio-", dir=".") as folder:
        for seed, (name, words) in enumerate(backends(folder).items(), 1):
            with demo(*words, folder=folder) as target:
                for depth, sizes, total in ROUNDS:
                    began = time.monotonic()
                    written, read = fio(program, target.url, seed, depth, sizes, total)
                    assert written and read >= written, f"{written} bytes were written, {read} read"
                    verified += written
                    print(f"{name}: depth {depth}, {sizes}: {written >> 20} MiB in {time.monotonic() - began:.1f} s", flush=True)
        a_change_is_seen(program, folder)
    print(f"RESULT: {verified >> 20} MiB written and verified in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
