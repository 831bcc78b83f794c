#!/usr/bin/env python3
"""An idle target sleeps: under 1 % of a core, and the first read after ten idle seconds is as quick as a busy one's.
What wakes it is counted, with no session and with a thousand: nothing but pings, those of many sessions together."""

import contextlib
import os
import pathlib
import signal
import socket as sockets
import statistics
import sys
import tempfile
import time

from crowd import Crowd, Reader
from target import demo

IDLE_SECONDS = 10
TARGETS = 4
# Sessions that do nothing, and a little more than their pings are apart.
CROWD, CROWD_SECONDS = 1000, 18


def cpu_seconds(pid):
    """What a process has used of processors, in user and kernel mode."""
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def awake():
    """An initiator that has just been at work: its own processor needs no wake-up, which would be counted as ours."""
    until = time.perf_counter() + 0.05
    while time.perf_counter() < until:
        pass


def timed(disk):
    start = time.perf_counter()
    disk.read()
    return (time.perf_counter() - start) * 1e6


class Echo:
    """The least that a sleeping server can be: what this machine itself needs to wake one is measured on it."""

    def __init__(self):
        listener = sockets.create_server(("127.0.0.1", 0))
        self.pid = os.fork()
        if self.pid == 0:
            peer, _ = listener.accept()
            while data := peer.recv(64):
                peer.sendall(data)
            os._exit(0)
        self.peer = sockets.create_connection(listener.getsockname())
        self.peer.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        self.peer.setblocking(False)
        listener.close()

    def timed(self):
        start = time.perf_counter()
        self.peer.send(b"x" * 48)
        while True:
            with contextlib.suppress(BlockingIOError):
                if self.peer.recv(64):
                    break
        return (time.perf_counter() - start) * 1e6

    def close(self):
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.peer.close()


def switches(pid):
    """How often all threads of a process have gone to sleep; those that end meanwhile do not count."""
    lines = []
    for task in pathlib.Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError):
            lines += (task / "status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("voluntary_ctxt_switches"))


def counted(target):
    """Sleeps of its reactors; of these, those that something ended before their time; sleeps of all threads."""
    pid, rows = target.process.pid, target.call("framework_get_reactors")["reactors"]
    return sum(r["sleeps"] for r in rows), sum(r["wakes"] for r in rows), switches(pid)


def sleeps():
    """An idle target without sessions, and one with a thousand, over a time in which each session is pinged."""
    with contextlib.ExitStack() as stack:
        targets = []
        for _ in range(2):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spindle-idle-"))
            targets.append(stack.enter_context(demo("--size", "64M", "--memory", "256M", "--cores", "0", folder=folder)))
        empty, full = targets
        crowd = stack.enter_context(Crowd(full.url, CROWD))
        time.sleep(1)
        pings, before = crowd.pings, [counted(t) for t in targets]
        time.sleep(CROWD_SECONDS)
        (nothing, _, threads), (slept, woken, all_threads) = (
            [a - b for a, b in zip(counted(t), was)] for t, was in zip(targets, before))
        pings = crowd.pings - pings
        # Two calls of ours are in it: a client's thread comes and goes with each.
        assert nothing <= 2 and threads <= 12, f"without sessions: {nothing} sleeps, {threads} of all threads"
        assert pings >= CROWD, f"only {pings} of {CROWD} sessions were asked whether they are there"
        by_itself = (slept - woken) / CROWD_SECONDS
        assert by_itself < 2, f"{CROWD} idle sessions: the clock wakes the target {by_itself:.1f} times a second"
        assert woken <= pings + 2 and all_threads <= slept + 12, f"{woken} wake-ups for {pings} answers, {all_threads} in all"
        assert len(full.call("iscsi_get_connections")) == CROWD
        print(f"without sessions {nothing} sleeps in {CROWD_SECONDS} s; with {CROWD}: {by_itself:.1f} a second by the clock, "
              f"{woken / CROWD_SECONDS:.1f} by the answers to {pings} pings")


def main():
    sleeps()
    echoes = [Echo() for _ in range(TARGETS)]
    echo_busy = [statistics.median(e.timed() for _ in range(500)) for e in echoes]
    with contextlib.ExitStack() as stack:
        # Several targets sleep at the same time, so that several first reads can be had in one pause.
        rows = []
        for n in range(TARGETS):
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spindle-idle-"))
            cores = "0-1" if n == 0 else str(n % 2)
            file = ["--file", f"{folder}/disk"] if n == 1 else []
            target = stack.enter_context(demo("--size", "64M", "--memory", "256M", "--cores", cores, *file, folder=folder))
            disk = stack.enter_context(contextlib.closing(Reader(target.url)))
            busy = statistics.median(timed(disk) for _ in range(500))
            rows.append((target, disk, busy))
        time.sleep(0.5)
        before = [(cpu_seconds(t.process.pid), t.call("framework_get_reactors")["reactors"]) for t, _, _ in rows]
        time.sleep(IDLE_SECONDS)
        used = [cpu_seconds(t.process.pid) - b for (t, _, _), (b, _) in zip(rows, before)]
        late = []
        for (target, disk, busy), (_, was) in zip(rows, before):
            awake()
            first = timed(disk)
            late.append(first - busy)
            after = target.call("framework_get_reactors")["reactors"]
            slept = [(b["asleep"] - a["asleep"]) / 1e9 for a, b in zip(was, after)]
            assert all(s > 0.9 * IDLE_SECONDS for s in slept), f"asleep for {slept} of {IDLE_SECONDS} s"
            print(f"busy {busy:.0f} µs, first after {IDLE_SECONDS} s {first:.0f} µs, turns {after[0]['turns'] - was[0]['turns']}")
        share = max(used) / IDLE_SECONDS * 100
        assert share < 1, f"an idle target uses {share:.2f} % of a core: {used}"
        # A pause of their own: right after the targets, the processors would be awake.
        time.sleep(IDLE_SECONDS)
        wakes = []
        for echo, quick in zip(echoes, echo_busy):
            awake()
            wakes.append(echo.timed() - quick)
        machine = statistics.median(wakes)
        for echo in echoes:
            echo.close()
        ours = statistics.median(late)
        # What the machine needs to wake any process is not ours; with other work on it, even ours is not quite ours.
        bound = machine + (100 if os.getloadavg()[0] < os.cpu_count() else 1000)
        assert ours < bound, f"the first read after idle seconds is later than a busy one by {late} µs, a bare echo server by {wakes} µs"
        print(f"RESULT: idle targets use {share:.2f} % of a core at most; the first read after {IDLE_SECONDS} idle seconds is "
              f"{ours:+.0f} µs against busy ones; a bare echo server here: {machine:+.0f} µs (medians of {TARGETS})")


if __name__ == "__main__":
    main()
    sys.exit(0)
