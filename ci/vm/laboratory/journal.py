"""A journal of acknowledged writes, kept outside guest and target: what was acknowledged must be found again."""
import signal

from laboratory import machine  # noqa: F401  (makes the guests' folder importable)
from laboratory.steps import note, step

import journaled_writer


class Journal:
    """Writes through one disk with several threads. Each slot of the disk carries a generation that only grows."""

    def __init__(self, disk, slots=256, block=4096, threads=8, seed=1, how="dsync"):
        self.disk, self.slots, self.block, self.threads, self.seed = disk, slots, block, threads, seed
        self.how = how  # by what a write becomes durable: see guest/journaled_writer.py
        self._process = None
        self._doubtful = set()  # writes that a power cut may have taken from between their answer and their flush

    def start(self):
        """Until `stop`."""
        step(f"journaled writes to {self.disk}")
        command = ["python3", "/lab/journaled_writer.py", "write", self.disk.path, self.slots, self.block]
        self._process = self.disk.machine.start(*command, self.threads, self.seed, self.how)

    def count(self):
        """Writes acknowledged so far."""
        return self._process.output().count("a ")

    def stop(self, timeout=30):
        """Ends the writers after the writes they are at: none may have seen an error."""
        self._process.signal(signal.SIGTERM)
        self._process.wait(timeout)
        note(f"{self.count()} writes acknowledged")

    def power_was_cut(self):
        """Call when nothing that was acknowledged before can still be on its way here.

        A write that was answered and not yet flushed may be lost, as a volatile cache may lose it; its flush, which the
        initiator repeats to the target that came back, then vouches for nothing. Nobody can tell, so it does not count.
        """
        if self.how == "fsync":
            begun, acknowledged = self._bounds()
            self._doubtful |= {(slot, new) for slot, new in begun.items() if new > acknowledged.get(slot, 0)}

    def _bounds(self):
        """(begun, acknowledged): the newest generation of each slot, as the writers have said until now."""
        begun, acknowledged = {}, {}
        text = self._process.output()
        for line in text[: text.rfind("\n") + 1].splitlines():
            kind, slot, generation = line.split()
            slot, generation = int(slot), int(generation)
            if kind == "a" and (slot, generation) in self._doubtful:
                continue
            record = begun if kind == "b" else acknowledged
            record[slot] = max(generation, record.get(slot, 0))
        return begun, acknowledged

    def _judge(self, found):
        """`found`: the generation of each slot, None for a block that is no single generation's."""
        begun, acknowledged = self._bounds()
        wrong = []
        for slot in range(self.slots):
            oldest, newest = acknowledged.get(slot, 0), begun.get(slot, 0)
            if found[slot] is None:
                wrong.append(f"slot {slot} is torn")
            elif not oldest <= found[slot] <= newest:
                wrong.append(f"slot {slot}: generation {found[slot]} found, {oldest} acknowledged, {newest} begun")
        assert not wrong, f"{len(wrong)} slots are wrong: " + "; ".join(wrong[:10])
        note(f"{self.slots} slots verified against {len(acknowledged)} acknowledged ones")

    def verify(self, disk=None, timeout=120):
        """Read through a disk, every slot holds one whole generation, as old as acknowledged at least."""
        disk = disk or self.disk
        step(f"verify the journal on {disk}")
        process = disk.machine.start(
            "python3", "/lab/journaled_writer.py", "read", disk.path, self.slots, self.block
        )
        found = {}
        for line in process.wait(timeout).out.splitlines():
            kind, slot, *generation = line.split()
            found[int(slot)] = None if kind == "t" else int(generation[0])
        assert len(found) == self.slots, f"{len(found)} of {self.slots} slots were read"
        self._judge(found)

    def verify_image(self, image):
        """The same, of the bytes that lie behind the target."""
        step("verify the journal on what lies behind the target")
        self._judge(
            {
                slot: journaled_writer.generation_of(slot, bytes(image[slot * self.block : (slot + 1) * self.block]))
                for slot in range(self.slots)
            }
        )
