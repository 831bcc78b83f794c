"""A relay between two TAPs that delays, loses, reorders and cuts, decided by a seed.

    python3 -m laboratory.relay INNER OUTER SEED

Each line on its input is a JSON object (an `Impairment`) or "counters"; each is answered with one line. It ends with
its input.
"""
import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from dataclasses import dataclass, fields

TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
QUEUE_MAX = 8192


@dataclass(frozen=True)
class Impairment:
    """What happens to a frame. Shares are between 0 and 1; each direction is decided for itself."""

    delay_ms: float = 0
    jitter_ms: float = 0  # up to this much more; order is kept
    loss: float = 0
    reorder: float = 0  # share of frames held back `hold_ms` while later ones pass
    hold_ms: float = 5
    direction: str = "both"  # or "in" (towards the initiator), "out" (towards the target)

    def __post_init__(self):
        for name in ("loss", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1")
        if self.direction not in ("both", "in", "out"):
            raise ValueError("direction is both, in or out")


class Line:
    """One direction: which frame goes when."""

    def __init__(self, name, seed):
        self.name, self._random = name, random.Random(f"{seed}/{name}")
        self.how = Impairment()
        self._queue, self._count, self._last = [], 0, 0.0
        self.counters = {"passed": 0, "lost": 0, "reordered": 0, "overflowed": 0}

    def take(self, frame, now):
        how = self.how if self.how.direction in ("both", self.name) else Impairment()
        # (each frame takes the same number of draws, so that a seed means the same whatever the settings)
        lost, late, jitter = (self._random.random() for _ in range(3))
        if lost < how.loss:
            self.counters["lost"] += 1
            return
        if len(self._queue) >= QUEUE_MAX:
            self.counters["overflowed"] += 1
            return
        due = now + (how.delay_ms + jitter * how.jitter_ms) / 1000
        if late < how.reorder:
            due += how.hold_ms / 1000
            self.counters["reordered"] += 1
        else:
            due = self._last = max(due, self._last)
        self._count += 1
        heapq.heappush(self._queue, (due, self._count, frame))

    def next_due(self):
        return self._queue[0][0] if self._queue else None

    def give(self, now):
        while self._queue and self._queue[0][0] <= now:
            self.counters["passed"] += 1
            yield heapq.heappop(self._queue)[2]


def open_tap(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def obey(line, lines):
    """One line of the laboratory."""
    try:
        wish = json.loads(line)
        if wish != "counters":
            how = Impairment(**wish)
            for one in lines:
                one.how = how
        return {one.name: one.counters for one in lines}
    except (TypeError, ValueError) as error:
        known = ", ".join(field.name for field in fields(Impairment))
        return {"error": f"{error} (known: {known})"}


def main():
    inner, outer = open_tap(sys.argv[1]), open_tap(sys.argv[2])
    out, into = Line("out", sys.argv[3]), Line("in", sys.argv[3])
    # from a TAP: the line it enters, and the TAP where that line ends
    ways = {inner: (out, outer), outer: (into, inner)}
    poll = select.epoll()
    for descriptor in (*ways, 0):
        poll.register(descriptor, select.EPOLLIN)
    print(json.dumps({"ready": True}), flush=True)
    while True:
        due = [line.next_due() for line, _ in ways.values() if line.next_due() is not None]
        wait = max(0.0, min(due) - time.monotonic()) if due else -1
        for descriptor, _ in poll.poll(wait):
            if descriptor == 0:
                line = sys.stdin.readline()
                if not line:
                    return
                print(json.dumps(obey(line, [out, into])), flush=True)
                continue
            now = time.monotonic()
            for _ in range(64):
                try:
                    ways[descriptor][0].take(os.read(descriptor, 65536), now)
                except BlockingIOError:
                    break
        now = time.monotonic()
        for line, end in ways.values():
            for frame in line.give(now):
                try:
                    os.write(end, frame)
                except OSError:
                    line.counters["lost"] += 1  # the other TAP is down: cut


if __name__ == "__main__":
    main()
