"""The disk with a volatile cache: what a flush promises, and what it does not."""
import unittest
from unittest import mock

from laboratory import volatile_disk
from laboratory.volatile_disk import BLOCK, FLUSH, FUA, READ, WRITE, VolatileDisk


class Wire:
    """A client's socket: answers are kept."""

    def __init__(self):
        self.answers = []

    def sendall(self, data):
        self.answers.append(data)

    def close(self):
        pass


class PowerCuts(unittest.TestCase):
    def setUp(self):
        with mock.patch.object(volatile_disk, "CONTROL", "127.0.0"):
            self.disk = VolatileDisk(1, "seed")
        self.addCleanup(self.disk._ear.close)
        self.wire = Wire()

    def ask(self, kind, block=0, data=b"", flags=0):
        self.disk._execute(self.wire, flags, kind, 0, block * BLOCK, len(data) or BLOCK, data)
        return self.wire.answers[-1][16:]

    def test_what_was_flushed_stays(self):
        for block in range(64):
            self.ask(WRITE, block, b"\x01" * BLOCK)
        self.ask(FLUSH)
        self.disk.cut_power()
        self.assertEqual(self.disk.durable[: 64 * BLOCK], b"\x01" * (64 * BLOCK))

    def test_a_write_with_fua_stays(self):
        self.ask(WRITE, 3, b"\x02" * BLOCK, FUA)
        self.disk.cut_power()
        self.assertEqual(self.ask(READ, 3), b"\x02" * BLOCK)

    def test_of_what_was_not_flushed_some_is_lost_and_nothing_is_torn(self):
        for block in range(64):
            self.ask(WRITE, block, b"\x03" * BLOCK)
        self.assertEqual(self.ask(READ, 9), b"\x03" * BLOCK)
        self.disk.cut_power()
        kept = [self.ask(READ, block) for block in range(64)]
        self.assertEqual(set(kept), {b"\x03" * BLOCK, bytes(BLOCK)})

    def test_a_write_that_stalled_lands_over_a_newer_one(self):
        self.disk.stall(1)
        late = (0, WRITE, 0, 0, BLOCK, b"\x04" * BLOCK)
        self.disk._stalled.append((self.wire, late))
        self.ask(WRITE, 0, b"\x05" * BLOCK)
        self.disk.resume()
        self.assertEqual(self.ask(READ, 0), b"\x04" * BLOCK)


if __name__ == "__main__":
    unittest.main()
