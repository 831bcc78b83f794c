#!/usr/bin/env python3
"""Block devices as LUNs, on loop devices: every byte, deallocation, refusals, sizes; and what a failing disk looks like."""

import os
import pathlib
import subprocess
import sys
import tempfile
import time

import initiator
from durability import configuration, url_of
from initiator import Session
from loops import loop, mounted, needed, sh, tmpfs
from target import BINARY, Rpc, RpcError, run, wait_for

MIB = 1 << 20


def refused(target, *words, field=None, method="bdev_uring_create", **params):
    try:
        target.call(method, **params)
    except RpcError as e:
        assert (e.data or {}).get("field") == field, f"{e} does not name {field}"
        assert all(w in e.message for w in words), f"{e} does not say {words}"
        return
    raise AssertionError(f"{method} {params} was taken")


def free(device):
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
        return True
    except OSError:
        return False


def allocated(path):
    return os.stat(path).st_blocks * 512


def bytes_go_through(folder, url, size):
    image, back = f"{folder}/image", f"{folder}/back"
    with open(image, "wb") as file:
        file.write(os.urandom(size // 2))
        file.truncate(size)
    sh("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, url)
    sh("qemu-img", "compare", "-f", "raw", "-F", "raw", image, url)
    sh("qemu-img", "convert", "-f", "raw", "-O", "raw", url, back)
    assert pathlib.Path(image).read_bytes() == pathlib.Path(back).read_bytes(), "what came back is not what was written"
    sh("qemu-io", "-f", "raw", "-c", "write -P 0x5a 1M 64k", "-c", "flush", "-c", "read -P 0x5a 1M 64k",
       "-c", "write -z 1M 32k", "-c", "read -P 0 1M 32k", "-c", "read -P 0x5a 1081344 32k", url)


def deallocation(disk, backing, block):
    """UNMAP and WRITE SAME give the space of the backing file back; blocks read as zeros afterwards."""
    per = MIB // block
    for unmap in (lambda: disk.unmap(4 * per, 8 * per), lambda: disk.write_same(4 * per, 8 * per, bytes(block), unmap=True)):
        for i in range(16):
            disk.write(i * per, b"\xa5" * MIB, block=block)
        disk.sync()
        full = allocated(backing)
        unmap()
        freed = full - allocated(backing)
        assert freed >= 7 * MIB, f"8 MiB were deallocated, the backing file gave back {freed}"
        assert disk.read(4 * per, per, block=block) == bytes(MIB), "deallocated blocks read as something else than zeros"
        for neighbour in (4 * per - 1, 12 * per):
            assert disk.read(neighbour, 1, block=block) == b"\xa5" * block, "deallocation took a neighbour"
    # WRITE SAME of zeros without UNMAP, and of a pattern.
    disk.write_same(0, 2 * per, bytes(block))
    assert disk.read(0, 2 * per, block=block) == bytes(2 * MIB)
    disk.write_same(3, 5, bytes([7]) * block)
    assert disk.read(2, 7, block=block) == bytes(block) + bytes([7]) * 5 * block + bytes(block)
    # Logical Block Provisioning VPD and READ CAPACITY(16) agree with it.
    lbpu = disk.good(bytes([0x12, 1, 0xB2, 0, 64, 0]), read=64)[5] & 0x80
    lbpme = disk.good(b"\x9e\x10" + bytes(8) + b"\0\0\0\x20\0\0", read=32)[14] & 0x80
    assert lbpu and lbpme, "a disk that deallocates does not say so"


def a_disk(folder, method, sector, block, size=32 * MIB):
    backing = f"{folder}/backing-{sector}-{block}"
    with loop(backing, size=size, sector=sector) as device:
        with run("--cores", "0-1", folder=folder, config=configuration(folder, 0, device, block_size=block)) as target, \
                Session(url_of(target)) as disk:
            one, = target.call("bdev_get_bdevs")
            details = one["driver_specific"]
            assert details["kind"] == "block device" and details["io"] == "direct", details
            assert disk.capacity() == (size // block, block)
            deallocation(disk, backing, block)
            bytes_go_through(folder, url_of(target), size)
            # The device grows under the target; the initiator hears of it.
            os.truncate(backing, size + 16 * MIB)
            sh("losetup", "--set-capacity", device)
            assert disk.capacity() == (size // block, block), "nobody has asked yet"
            target.call("bdev_uring_rescan", name="disk")
            assert disk.attentions() == [initiator.CAPACITY_CHANGED], "CAPACITY DATA HAS CHANGED"
            assert disk.capacity() == ((size + 16 * MIB) // block, block)
            disk.write(size // block, b"n" * block, block=block)
            target.call("bdev_uring_rescan", name="disk")
            assert disk.attentions() == [], "a rescan that finds nothing new says nothing"
            refused(target, "rescan", field="new_size", method="bdev_uring_resize", name="disk", new_size=64)
            # The second user of a device is refused: here, in another target, and on the file system's side.
            refused(target, "in use", name="second", filename=device, uuid="11111111-2222-8333-8444-555555555555")
            refused(target, "in use", name="second", filename=device, readonly=True, uuid="11111111-2222-8333-8444-555555555555")
            with Rpc(target.socket):
                other = subprocess.run([BINARY, "demo", "--port", "0", "--file", device, "--socket", f"{folder}/other.sock",
                                        "--state", f"{folder}/other"], capture_output=True, text=True, timeout=60)
            assert other.returncode == 1 and "in use" in other.stderr, other
            mkfs = subprocess.run(["mkfs.ext4", "-q", "-F", device], capture_output=True, text=True, timeout=60)
            assert mkfs.returncode != 0, "a file system could be made on an exported disk"
        # Its turn is over: now the file system may have it, and the target may not.
        sh("mkfs.ext4", "-q", device)
        with mounted(device, f"{folder}/fs"), run(folder=folder) as target:
            refused(target, "mounted", name="disk", filename=device)
            refused(target, "mounted", name="disk", filename=device, readonly=True)
        # The kernel lets go of a file system a little after umount has returned.
        wait_for("the device to be free", lambda: free(device))
        with run(folder=folder) as target:
            if sector == 4096:
                refused(target, "4096", field="block_size", name="disk", filename=device, block_size=512)
            target.call(method, name="disk", filename=device)
            assert target.call("bdev_get_bdevs")[0]["block_size"] == sector, "the device's own block is the default"


def files_are_taken_once(folder):
    """Two targets on one file are refused, whatever the name it goes by."""
    path = f"{folder}/file"
    pathlib.Path(path).write_bytes(bytes(MIB))
    os.symlink(path, f"{folder}/symlink")
    os.link(path, f"{folder}/hardlink")
    with run(folder=folder) as target:
        target.call("bdev_aio_create", name="disk", filename=path)
        for name in ("symlink", "hardlink"):
            refused(target, "in use", name="other", filename=f"{folder}/{name}", uuid="11111111-2222-8333-8444-555555555555")
            other = subprocess.run([BINARY, "demo", "--port", "0", "--file", f"{folder}/{name}", "--socket", f"{folder}/o.sock",
                                    "--state", f"{folder}/other"], capture_output=True, text=True, timeout=60)
            assert other.returncode == 1 and "in use" in other.stderr, other
        # Readers may share; a writer beside them may not.
        target.call("bdev_aio_delete", name="disk")
        target.call("bdev_aio_create", name="one", filename=path, readonly=True)
        target.call("bdev_aio_create", name="two", filename=path, readonly=True, uuid="11111111-2222-8333-8444-555555555555")
        refused(target, "in use", name="three", filename=path, uuid="21111111-2222-8333-8444-555555555555")


def failing_disks(folder):
    """No room, a disk that ends early, a file that vanished: the sense that SBC names, and never GOOD for a failed write."""
    def fails(act):
        try:
            act()
        except initiator.Check as e:
            return e.answer.sense
        raise AssertionError("a write that failed was answered GOOD")

    with tmpfs(f"{folder}/small", "24M") as small:
        for method, params in [("bdev_uring_create", {}), ("bdev_uring_create", {"cache": "write_through"})]:
            path = small / "thin"
            config = configuration(folder, 0, path, create_bytes=64 * MIB, **params)
            with run(folder=folder, config=config) as target, Session(url_of(target)) as disk:
                def fill():
                    for i in range(48):
                        disk.write(i * 2048, b"f" * MIB)
                # SBC-4 §4.7.3.6: a thin disk without room: DATA PROTECT, SPACE ALLOCATION FAILED WRITE PROTECT.
                assert fails(fill) == (initiator.DATA_PROTECT, 0x2707), f"no room: {fails(fill)}"
                assert disk.read(0, 8) == b"f" * 4096, "what was written before is there"
                # Room again: it goes on.
                disk.unmap(0, 16384)
                disk.write(0, b"g" * MIB)
                assert disk.read(0, 8) == b"g" * 4096
            path.unlink()
        # A block device without room says EIO: a write error.
        with loop(small / "medium", size=64 * MIB) as device:
            config = configuration(folder, 0, device)
            with run(folder=folder, config=config) as target, Session(url_of(target)) as disk:
                def fill_device():
                    for i in range(48):
                        disk.write(i * 2048, b"f" * MIB)
                sense = fails(fill_device)
                assert sense in ((initiator.MEDIUM_ERROR, 0x0C00), (initiator.DATA_PROTECT, 0x2707)), f"a failing write: {sense}"
                assert disk.read(0, 8) == b"f" * 4096
    # A file cut short behind our back: reads beyond its end fail, and never show old memory.
    path = f"{folder}/short"
    config = configuration(folder, 0, path, create_bytes=4 * MIB)
    with run(folder=folder, config=config) as target, Session(url_of(target)) as disk:
        disk.write(0, b"s" * 4 * MIB)
        os.truncate(path, MIB)
        assert fails(lambda: disk.read(4096, 8)) == (initiator.MEDIUM_ERROR, 0x1100), "UNRECOVERED READ ERROR"
        assert disk.read(0, 8) == b"s" * 4096
        assert fails(lambda: disk.read(2040, 16)) == (initiator.MEDIUM_ERROR, 0x1100), "half of it is there"
        # A file whose name is gone is still there for whoever has it open.
        os.unlink(path)
        disk.write(8, b"u" * 512)
        assert disk.read(8, 1) == b"u" * 512


def main():
    needed()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spindle-block-", dir=".") as folder:
        folder = str(pathlib.Path(folder).resolve())
        cases = [("bdev_uring_create", 512, 512), ("bdev_aio_create", 4096, 4096), ("bdev_uring_create", 512, 4096)]
        for method, sector, block in cases:
            a_disk(folder, method, sector, block)
            print(f"blocks of {sector} bytes served as {block}: well")
        files_are_taken_once(folder)
        failing_disks(folder)
    print(f"RESULT: {len(cases)} block devices: every byte, deallocation, sizes, second users refused; no room, short and "
          f"vanished files give their sense; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
    sys.exit(0)
