#!/usr/bin/env python3
"""What was acknowledged as durable is there: after `kill -9` of the target, and after a power cut.

Killing a process leaves the host's page cache as it is, so kills prove only half: that nothing is acknowledged before it
was handed on. The other half is proved on a disk that can be looked at: a loop device counts the flushes that reach it,
and a copy of its backing file is what a power cut would have left. A build that skips flushes
(`--features planted-flush-skipped`) must fail here; `--planted` builds it and sees to that.

Usage: durability.py [--kills N] [--only kills|power] [--planted]
"""

import argparse
import contextlib
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading
import time

import initiator
from initiator import Session
from loops import flushes, loop, mounted, needed, power_cut, sh, tmpfs
from target import ROOT, RpcError, run, start_run

MIB = 1 << 20
SMALL = ("--memory", "32M", "--pool", "16M")


def configuration(folder, port, path, **device):
    """A target with one file as its LUN 0."""
    calls = [
        ("bdev_uring_create", {"name": "disk", "filename": str(path), **device}),
        ("iscsi_create_portal_group", {"tag": 1, "portals": [{"host": "127.0.0.1", "port": port}]}),
        ("iscsi_create_initiator_group", {"tag": 1, "initiators": ["ANY"], "netmasks": ["ANY"]}),
        ("iscsi_create_target_node", {"name": "disk", "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 1}],
                                      "luns": [{"bdev_name": "disk", "lun_id": 0}]}),
    ]
    file = pathlib.Path(folder, "config.json")
    config = [{"subsystem": "all", "config": [{"method": m, "params": p} for m, p in calls]}]
    file.write_text(json.dumps({"subsystems": config}))
    return file


def url_of(target):
    port = target.call("iscsi_get_portal_groups")[0]["portals"][0]["port"]
    return f"iscsi://127.0.0.1:{port}/{target.call('iscsi_get_target_nodes')[0]['name']}/0"


class Writer(threading.Thread):
    """Writes blocks of its own region and notes, outside the target, which of them were acknowledged as durable."""

    BLOCKS = 8

    def __init__(self, url, number, seed, how, certain):
        super().__init__()
        self.url, self.number, self.how = url, number, how
        self.random = random.Random(seed)
        # Extent → what it holds for certain; and what it may hold besides, because its write had not been answered.
        self.certain, self.possible, self.count = certain, {}, 0
        self.failed = None

    def run(self):
        try:
            with Session(self.url, name=f"iqn.2026-01.org.example:w{self.number}", timeout=10) as disk:
                waiting = []
                while True:
                    lba = (self.number * 256 + self.random.randrange(256)) * self.BLOCKS
                    data = self.random.randbytes(32) * (self.BLOCKS * 16)
                    self.possible.setdefault(lba, []).append(data)
                    disk.write(lba, data, fua=self.how == "fua")
                    waiting.append((lba, data))
                    if self.how == "sync" and len(waiting) < 8:
                        continue
                    if self.how == "sync":
                        disk.sync()
                    for lba, data in waiting:
                        self.certain[lba] = data
                        later = self.possible[lba]
                        self.possible[lba] = later[later.index(data) + 1:]
                        self.count += 1
                    waiting = []
        except initiator.Broken:
            pass  # the target was killed
        except Exception as e:
            self.failed = e

    def check(self, read, where):
        for lba in self.certain.keys() | self.possible.keys():
            got = read(lba, self.BLOCKS)
            allowed = [self.certain.get(lba, bytes(len(got))), *self.possible.get(lba, [])]
            # A write that was under way may be half there: each block for itself is old or new.
            for i in range(0, len(got), 512):
                there = any(got[i:i + 512] == a[i:i + 512] for a in allowed)
                assert there, f"{where}: block {lba + i // 512} was acknowledged as durable and is not there"
            self.certain[lba] = got
        self.possible = {}


def kills(folder, rounds, how, **device):
    """Kills the target under load; what was acknowledged is there when it is back."""
    path = pathlib.Path(folder, f"kill-{how}-{len(device)}")
    state = random.Random(42)
    port, acknowledged, uuid, certain = 0, 0, None, [{}, {}]
    for turn in range(rounds):
        config = configuration(folder, port, path, create_bytes=8 * MIB, **device)
        target = start_run(*SMALL, folder=folder, config=config)
        url = url_of(target)
        port = int(url.split(":")[2].split("/")[0])
        with Session(url) as disk:
            identity = disk.good(bytes([0x12, 1, 0x83, 0, 255, 0]), read=255)
        assert uuid in (None, identity), "the identity of a disk changes with a restart"
        uuid = identity
        # Each round begins with what the last one left.
        writers = [Writer(url, n, f"{how}-{turn}-{n}", how, certain[n]) for n in range(2)]
        for writer in writers:
            writer.start()
        time.sleep(state.uniform(0.03, 0.12))
        target.kill()
        for writer in writers:
            writer.join()
            if writer.failed:
                raise writer.failed
        with open(path, "rb") as file:
            def from_file(lba, blocks):
                file.seek(lba * 512)
                return file.read(blocks * 512)

            for writer in writers:
                writer.check(from_file, f"{how}, kill {turn}")
        if turn % 5 == 0:
            with run(*SMALL, folder=folder, config=config) as target, Session(url_of(target)) as disk:
                for writer in writers:
                    writer.check(disk.read, f"{how}, after kill {turn}, through the target")
        acknowledged += sum(w.count for w in writers)
    assert acknowledged > rounds, f"{how}: {acknowledged} writes in {rounds} rounds are no load"
    return acknowledged


def on_a_block_device(folder):
    """Flushes that reach the disk are counted: they rise with durability and only with it."""
    with loop(f"{folder}/block", size=32 * MIB) as device:
        for cache, plain, forced, synced in [("write_back", 0, 1, 1), ("write_through", 1, 1, 1), ("nv_cache", 0, 0, 0)]:
            config = configuration(folder, 0, device, cache=cache)
            with run(*SMALL, folder=folder, config=config) as target, Session(url_of(target)) as disk:
                for what, each, act in [("a write", plain, lambda n: disk.write(n, b"p" * 512)),
                                        ("a FUA write", forced, lambda n: disk.write(n, b"f" * 512, fua=True)),
                                        ("SYNCHRONIZE CACHE", synced, lambda n: disk.sync()),
                                        ("a read", 0, lambda n: disk.read(n, 1))]:
                    before = flushes(device)
                    for n in range(10):
                        act(n)
                    rose = flushes(device) - before
                    assert (rose >= 10) if each else rose == 0, f"block device, {cache}: 10 × {what}: {rose} flushes"
                wce = disk.good(bytes([0x1A, 8, 8, 0, 64, 0]), read=64)[4 + 2] & 4
                assert bool(wce) == (cache == "write_back"), f"{cache}: WCE is {wce}"
            # An orderly end flushes, whatever the initiators did.
            after = flushes(device)
            with run(*SMALL, folder=folder, config=config) as target, Session(url_of(target)) as disk:
                disk.write(0, b"e" * 512)
            assert cache == "nv_cache" or flushes(device) > after, f"{cache}: no flush at the end"


def on_a_file_system(folder):
    """A file on a file system whose disk can be looked at. The journal sleeps, so that only flushes bring data down."""
    images = 0
    backing = f"{folder}/medium"
    with loop(backing, size=64 * MIB) as device:
        sh("mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", device)
        with mounted(device, f"{folder}/fs", "commit=300") as top:
            for name, direct in [("cached", False), ("direct", True)]:
                for cache, how in [("write_back", "plain"), ("write_back", "sync"), ("write_back", "fua"),
                                   ("write_through", "plain"), ("write_through", "unmap")]:
                    case = f"{name}-{cache}-{how}"
                    config = configuration(folder, 0, top / case, create_bytes=4 * MIB, cache=cache, direct=direct)
                    with run(*SMALL, folder=folder, config=config) as target, Session(url_of(target)) as disk:
                        lba, data = 64, os.urandom(64 * 1024)
                        before = flushes(device)
                        if how == "unmap":
                            disk.write(lba, data)
                            disk.unmap(lba, len(data) // 512)
                            data = bytes(len(data))
                        else:
                            disk.write(lba, data, fua=how == "fua")
                        if how == "sync":
                            disk.sync()
                        flushed = flushes(device) - before
                        image = power_cut(backing, f"{folder}/image")
                    with loop(image) as copy, mounted(copy, f"{folder}/copy") as seen:
                        file = seen / case
                        held = file.read_bytes()[lba * 512:lba * 512 + len(data)] if file.exists() else b""
                    images += 1
                    durable = not (cache == "write_back" and how == "plain")
                    assert not durable or flushed > 0, f"{case}: no flush reached the disk"
                    assert not durable or held == data, f"{case}: acknowledged as durable, and gone after the power cut"
                    # The method sees a loss where one is allowed, so it would see one that is not.
                    assert durable or direct or held != data, f"{case}: nothing was flushed, and yet it is there"
    return images


def a_flush_that_fails(folder):
    """The disk under a file fails while its data goes down: no SYNCHRONIZE CACHE is GOOD until the LUN is opened anew."""
    with tmpfs(f"{folder}/small", "48M") as small, loop(small / "medium", size=64 * MIB) as device:
        # Without a journal only the data itself can fail.
        sh("mkfs.ext4", "-q", "-O", "^has_journal", "-E", "lazy_itable_init=0", device)
        with mounted(device, f"{folder}/failing", "errors=continue") as top:
            with open(top / "disk", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, 8 * MIB)
                os.fsync(file.fileno())
            config = configuration(folder, 0, top / "disk")
            with run(*SMALL, folder=folder, config=config) as target, Session(url_of(target)) as disk:
                disk.write(0, b"1" * 4096)
                disk.sync()
                with contextlib.suppress(OSError), open(small / "filler", "wb", buffering=0) as filler:
                    while filler.write(bytes(1 << 16)):
                        pass
                # The page cache takes it; the medium has no room for it.
                disk.write(8192, b"2" * 1024 * 1024)
                try:
                    disk.sync()
                    raise AssertionError("SYNCHRONIZE CACHE was GOOD and the disk had failed")
                except initiator.Check as e:
                    assert e.answer.key in (initiator.MEDIUM_ERROR, 4), f"a failed flush: {e}"
                os.unlink(small / "filler")
                for _ in range(3):
                    # The system has given the data up and would say yes; the target remembers.
                    assert disk.command(b"\x35" + bytes(9)).status == 2, "SYNCHRONIZE CACHE is GOOD again, and data is lost"
                name = target.call("iscsi_get_target_nodes")[0]["name"]
                told = target.call("bdev_get_bdevs", name="disk")[0]["driver_specific"]["flush_lost"]
                assert told == "true", f"flush_lost: {told}"
                target.call("iscsi_target_node_remove_lun", name=name, lun_id=0)
                target.call("bdev_uring_delete", name="disk")
                target.call("bdev_uring_create", name="disk", filename=str(top / "disk"))
                target.call("iscsi_target_node_add_lun", name=name, bdev_name="disk", lun_id=0)
                disk.attentions()
                disk.write(8192, b"4" * 4096)
                disk.sync()
                assert disk.read(8192, 8) == b"4" * 4096 and disk.read(0, 8) == b"1" * 4096


def planted():
    """Builds the target that skips flushes, and sees that it is found out."""
    sh("cargo", "build", "--quiet", "--features", "planted-flush-skipped", "--manifest-path", ROOT / "Cargo.toml")
    built = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug/spindle"
    # Not left where somebody might take it for a good one.
    hidden = built.parent / "planted-flush-skipped"
    os.replace(built, hidden)
    env = {**os.environ, "SPINDLE_BINARY": str(hidden)}
    done = subprocess.run([sys.executable, __file__, "--only", "power"], env=env, capture_output=True, text=True, timeout=300)
    hidden.unlink()
    assert done.returncode != 0 and "flushes" in done.stderr + done.stdout, \
        f"a target that never flushes passes:\n{done.stdout[-2000:]}{done.stderr[-2000:]}"
    return [line for line in done.stderr.splitlines() if "AssertionError" in line][-1]


def main():
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--only", choices=["kills", "power"])
    options.add_argument("--planted", action="store_true")
    options = options.parse_args()
    needed()
    started = time.monotonic()
    if options.planted:
        print(f"RESULT: a build that skips flushes is found: {planted()}")
        return
    told = []
    with tempfile.TemporaryDirectory(prefix="spindle-durability-", dir=".") as folder:
        folder = str(pathlib.Path(folder).resolve())
        if options.only != "power":
            n = options.kills
            count = kills(folder, n, "through", cache="write_through")
            count += kills(folder, n // 5, "through", cache="write_through", direct=True)
            count += kills(folder, n // 5, "fua")
            count += kills(folder, n // 5, "sync")
            told.append(f"{n + 3 * (n // 5)} kills, {count} acknowledged writes all there")
        if options.only != "kills":
            on_a_block_device(folder)
            told.append(f"{on_a_file_system(folder)} power cuts")
            a_flush_that_fails(folder)
            told.append("a failed flush stays failed")
    print(f"RESULT: {'; '.join(told)}; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
