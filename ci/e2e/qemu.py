#!/usr/bin/env python3
"""QEMU's own iSCSI driver writes a random image to the disk and reads it back, sequentially and at random."""

import os
import subprocess
import sys
import tempfile

from target import demo


def sh(*words):
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}"
    return done.stdout


def check(name, *options):
    with tempfile.TemporaryDirectory(prefix="spindle-qemu-", dir=".") as folder:
        image, back = f"{folder}/image", f"{folder}/back"
        with open(image, "wb") as file:
            file.write(os.urandom(96 << 20))
            # A hole in the middle: QEMU writes it with WRITE SAME or UNMAP where the target offers it.
            file.truncate(128 << 20)
        options = [o.replace("FOLDER", folder) for o in options]
        with demo(*options, folder=folder) as target:
            sh("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, target.url)
            sh("qemu-img", "compare", "-f", "raw", "-F", "raw", image, target.url)
            sh("qemu-img", "convert", "-f", "raw", "-O", "raw", target.url, back)
            sh("qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "discard 2M 1M", "-c", "flush",
               "-c", "read -P 0x5a 1M 64k", target.url)
        with open(image, "rb") as a, open(back, "rb") as b:
            while chunk := a.read(1 << 20):
                assert chunk == b.read(1 << 20), f"{name}: what came back is not what was written"
    print(f"{name}: 128 MiB written, compared, read back")


if __name__ == "__main__":
    check("ram", "--size", "128M")
    check("ram, 4096-byte blocks", "--size", "128M", "--block-size", "4096")
    check("file", "--size", "128M", "--file", "FOLDER/disk")
    check("file, direct", "--size", "128M", "--file", "FOLDER/disk", "--direct", "--block-size", "4096")
    check("ram, two cores", "--size", "128M", "--cores", "0-1")
    print("RESULT: qemu-img and qemu-io found every byte on five disks")
    sys.exit(0)
