"""Loop devices and file systems on them, for tests of block devices and of durability. Needs root."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys


def sh(*words):
    done = subprocess.run([str(w) for w in words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=900)
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}"
    return done.stdout.strip()


def needed():
    """Ends the script, as failed, where there are no loop devices: a test that did not run has proved nothing."""
    if os.geteuid() != 0 or not os.path.exists("/dev/loop-control"):
        print("RESULT: not run: needs root and loop devices (a container has them with --privileged)")
        sys.exit(1)


@contextlib.contextmanager
def loop(backing, size=None, sector=512):
    """A loop device over a file; made, sparse, if a size is given."""
    if size is not None:
        with open(backing, "wb") as file:
            file.truncate(size)
    device = sh("losetup", "--find", "--show", "--sector-size", sector, backing)
    try:
        yield device
    finally:
        sh("losetup", "--detach", device)


@contextlib.contextmanager
def mounted(device, folder, *options):
    """A file system of a device, mounted."""
    pathlib.Path(folder).mkdir(exist_ok=True)
    sh("mount", *(["-o", ",".join(options)] if options else []), device, folder)
    try:
        yield pathlib.Path(folder)
    finally:
        sh("umount", folder)


@contextlib.contextmanager
def tmpfs(folder, size):
    pathlib.Path(folder).mkdir(exist_ok=True)
    sh("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield pathlib.Path(folder)
    finally:
        sh("umount", folder)


def flushes(device):
    """Flush requests that a block device has completed (Documentation/block/stat.rst, field 16)."""
    return int(pathlib.Path("/sys/block", pathlib.Path(device).name, "stat").read_text().split()[15])


def power_cut(backing, copy):
    """What the medium holds at this moment: all that was given to the loop device, nothing that waits above it."""
    shutil.copyfile(backing, copy)
    return copy
