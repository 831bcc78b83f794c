#!/usr/bin/env python3
"""Copies of payload by the processor: none for 128 KiB reads and writes on RAM disks, and counted where there are some."""

import os
import sys
import tempfile
import time

from initiator import Session
from loops import sh
from target import demo

KIB = 1024


def copies(target):
    """Bytes copied, and commands of the disk, since the start."""
    told = target.call("spindle_get_memory")["copies"]
    return told["bytes"], told["commands"]


def delta(target, act):
    """Copied bytes and commands of what `act` does, when every buffer is back."""
    before = copies(target)
    act()
    time.sleep(0.05)
    after = copies(target)
    return after[0] - before[0], after[1] - before[1]


def main():
    told = []
    with tempfile.TemporaryDirectory(prefix="spindle-copies-") as folder:
        for cores in ("0", "0-1"):
            with demo("--size", "64M", "--cores", cores, folder=folder) as target, Session(target.url) as disk:
                data = os.urandom(128 * KIB)

                def writes(count=64):
                    for i in range(count):
                        disk.write(i * 256, data)

                def reads():
                    for i in range(64):
                        assert disk.read(i * 256, 256) == data

                def mixed():
                    for i in range(64):
                        if i % 8 == 0:
                            disk.write(i * 256, data)
                        else:
                            assert disk.read(i * 256, 256) == data

                for name, act in [("writes", writes), ("reads", reads), ("reads with writes between", mixed)]:
                    copied, commands = delta(target, act)
                    assert commands == 64, f"64 {name} are counted as {commands} commands"
                    assert copied == 0, f"64 {name} of 128 KiB on {cores}: {copied} bytes were copied"
                    told.append(f"{commands} {name}")
                # Many at once, by another initiator.
                for name, words in [("writes", ["-w"]), ("reads", [])]:
                    copied, commands = delta(target, lambda: sh(
                        "qemu-img", "bench", "-f", "raw", "-d", 16, "-s", 128 * KIB, "-c", 256, *words, target.url))
                    # QEMU looks at its disk first, in single blocks.
                    assert 256 <= commands < 270 and copied <= 16 * 4 * KIB, f"256 {name} in a queue of 16: {copied} copied"
                    told.append(f"256 {name} in a queue of 16")
                # Where copying cannot be helped it is counted: half pages have to be put together.
                copied, commands = delta(target, lambda: [disk.write(8 * i + 3, b"x" * 512) for i in range(16)])
                assert commands == 16 and 16 * 512 <= copied <= 16 * 4 * KIB, f"16 writes of 512 bytes: {copied} bytes copied"
                row, = target.call("bdev_get_iostat")["bdevs"]
                assert row["bytes_written"] == (64 + 8 + 256) * 128 * KIB + 16 * 512, row
                assert 16 * 512 <= row["copied_bytes"] == copies(target)[0] and 0 < row["copied_bytes_per_command"] < 4 * KIB, row
        with demo("--size", "64M", "--file", f"{folder}/disk", "--direct", "--block-size", "4096", folder=folder) as target, \
                Session(target.url) as disk:
            copied, commands = delta(target, lambda: [disk.write(i * 32, os.urandom(128 * KIB), block=4096) for i in range(64)])
            assert commands == 64 and copied == 0, f"64 writes of 128 KiB into a file: {copied} bytes were copied"
            copied, commands = delta(target, lambda: [disk.read(i * 32, 32, block=4096) for i in range(64)])
            assert commands == 64 and copied == 0, f"64 reads of 128 KiB from a file: {copied} bytes were copied"
    print(f"nothing was copied for {', '.join(told)} of 128 KiB")
    print("RESULT: nothing is copied for 128 KiB reads and writes on RAM (one core, two, mixed, queue of 16) and direct files")


if __name__ == "__main__":
    main()
    sys.exit(0)
