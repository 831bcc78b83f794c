#!/usr/bin/env python3
"""Sessions move between the cores of the real target: under load, with verified data, without an error."""

import random
import struct
import sys
import tempfile
import threading
import time

import initiator
from initiator import Session
from target import RpcError, demo, wait_for

MOVES = 300


class Busy(threading.Thread):
    """Writes and reads its own blocks, one command after another, and verifies what it reads."""

    def __init__(self, url, number):
        super().__init__()
        self.disk = Session(url, name=f"iqn.2026-01.org.example:mover-{number}")
        self.number, self.count, self.failed = number, 0, None
        self.stop = threading.Event()

    def run(self):
        luck = random.Random(self.number)
        known = {}
        try:
            while not self.stop.is_set():
                self.turn(luck, known)
                self.count += 1
        except Exception as e:  # told by the main thread
            self.failed = e
        self.disk.close()

    def turn(self, luck, known):
        lba = self.number * 8192 + luck.randrange(64) * 128
        blocks = luck.choice((1, 8, 128))
        data = luck.randbytes(512) * blocks
        self.disk.write(lba, data)
        known[lba] = data
        lba, data = luck.choice(list(known.items()))
        assert self.disk.read(lba, len(data) // 512) == data, f"block {lba} does not show what was written"


class Heavy(Busy):
    """Gives the target much to do, and itself little: WRITE SAME of megabytes, and a look at some of it."""

    def turn(self, luck, known):
        lba, blocks = self.number * 32768 + luck.randrange(8) * 2048, 16384
        data = luck.randbytes(512)
        self.disk.good(struct.pack(">BBQIBB", 0x93, 0, lba, blocks, 0, 0), write=data)
        at = lba + luck.randrange(blocks)
        assert self.disk.read(at, 1) == data, f"block {at} does not show what was written"


def places(target):
    return {row["initiator_name"].rsplit("-", 1)[-1]: row for row in target.call("iscsi_get_connections")}


def end(threads):
    for thread in threads:
        thread.stop.set()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive(), "an initiator hangs"
        assert thread.failed is None, f"initiator {thread.number}: {thread.failed!r}"
        assert thread.count > 0


def refused(target, **params):
    try:
        target.call("iscsi_move_session", **params)
    except RpcError as e:
        return e
    raise AssertionError(f"{params} was taken")


def by_hand(folder):
    with demo("--size", "64M", "--cores", "0-1", "--no-moves", folder=folder) as target:
        threads = [Busy(target.url, n) for n in range(3)]
        for thread in threads:
            thread.start()
        wait_for("load", lambda: all(t.count > 5 or t.failed for t in threads))
        luck, moved, stayed = random.Random(1), 0, 0
        for _ in range(MOVES):
            row = luck.choice(list(places(target).values()))
            to = 1 - row["lcore_id"]
            try:
                target.call("iscsi_move_session", tsih=row["tsih"], core=to)
                moved += 1
                assert {r["tsih"]: r["lcore_id"] for r in places(target).values()}[row["tsih"]] == to
            except RpcError as e:
                assert e.code == -16, e
                stayed += 1
        assert moved > MOVES * 0.8, f"{moved} moves, {stayed} times it stayed"
        # What waits for a session goes with it, and it is told once.
        row = places(target)["0"]
        refused(target, tsih=row["tsih"], core=9)
        assert refused(target, tsih=65000, core=0).code == -19
        quiet = Session(target.url, name="iqn.2026-01.org.example:quiet-q")
        quiet.attentions()
        tsih, core = places(target)["q"]["tsih"], places(target)["q"]["lcore_id"]
        end(threads)
        name = target.call("bdev_get_bdevs")[0]["name"]
        target.call("bdev_malloc_resize", name=name, new_size=80)
        target.call("iscsi_move_session", tsih=tsih, core=1 - core)
        assert quiet.attentions() == [initiator.CAPACITY_CHANGED], "the attention did not travel, or is told twice"
        assert quiet.capacity()[0] == 80 * 2048
        quiet.close()
        wait_for("sessions to end", lambda: target.call("iscsi_get_connections") == [])
        return moved, stayed


def together(target, threads):
    """All of them on the first core."""
    for row in list(places(target).values()):
        if row["lcore_id"] != 0:
            target.call("iscsi_move_session", tsih=row["tsih"], core=0)
    assert {row["lcore_id"] for row in places(target).values()} == {0}
    for thread in threads:
        thread.start()


def by_load(folder):
    """Busy sessions that sit on one core while another has nothing to do are parted; a lone one stays."""
    with demo("--size", "64M", "--cores", "0-1", folder=folder) as target:
        threads = [Heavy(target.url, n) for n in range(2)]
        together(target, threads)
        began = time.monotonic()
        wait_for("a session to move", lambda: {r["lcore_id"] for r in places(target).values()} == {0, 1}
                 or any(t.failed for t in threads), seconds=20)
        took = time.monotonic() - began
        where = places(target)
        time.sleep(5)
        assert places(target).keys() == where.keys()
        assert all(places(target)[n]["lcore_id"] == where[n]["lcore_id"] for n in where), "sessions go to and fro"
        end(threads)
    with demo("--size", "64M", "--cores", "0-1", folder=folder) as target:
        threads = [Heavy(target.url, 0)]
        together(target, threads)
        time.sleep(6)
        row, = places(target).values()
        assert row["lcore_id"] == 0, "the only busy session of a core moved"
        end(threads)
    return took


def main():
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spindle-moves-") as folder:
        moved, stayed = by_hand(folder)
        took = by_load(folder)
    print(f"RESULT: {moved} moves of busy sessions by hand ({stayed} times one stayed), data verified; two that share a core "
          f"while another is idle are parted after {took:.1f} s, and a lone one stays; "
          f"{time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
    sys.exit(0)
