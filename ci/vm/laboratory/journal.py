"""A journal of acknowledged writes, kept outside guest and target: what was acknowledged must be found again."""
from laboratory.steps import note, step


class Journal:
    """Writes through one disk with several threads. Each slot of the disk carries a generation that only grows."""

    def __init__(self, disk, slots=256, block=4096, threads=8, seed=1):
        self.disk, self.slots, self.block, self.threads, self.seed = disk, slots, block, threads, seed
        self.begun, self.acknowledged = {}, {}
        self._process = None

    def start(self, seconds):
        step(f"journaled writes to {self.disk} for {seconds} s")
        command = ["python3", "/lab/journaled_writer.py", "write", self.disk.path, self.slots, self.block]
        self._process = self.disk.machine.start(*command, self.threads, self.seed, seconds)

    def _read(self, text):
        for line in text.splitlines():
            kind, slot, generation = line.split()
            record = self.begun if kind == "b" else self.acknowledged
            record[int(slot)] = max(int(generation), record.get(int(slot), 0))

    def count(self):
        """Writes acknowledged so far."""
        return self._process.output().count("a ")

    def finish(self, timeout=120):
        """Waits for the writers: none may have seen an error."""
        self._read(self._process.wait(timeout).out)
        note(f"{self.count()} writes acknowledged")

    def abandon(self):
        """The writers are gone with their machine; what they said until then stands."""
        text = self._process.output()
        self._read(text[: text.rfind("\n") + 1])
        note(f"{self.count()} writes acknowledged when the machine went")

    def verify(self, disk=None, timeout=120):
        """Every slot holds one whole generation, not older than acknowledged and not newer than begun."""
        disk = disk or self.disk
        step(f"verify the journal on {disk}")
        command = ["python3", "/lab/journaled_writer.py", "read", disk.path, self.slots, self.block]
        process = disk.machine.start(*command)
        wrong, seen = [], 0
        for line in process.wait(timeout).out.splitlines():
            kind, slot, *generation = line.split()
            slot = int(slot)
            seen += 1
            if kind == "t":
                wrong.append(f"slot {slot} is torn")
                continue
            found, oldest, newest = int(generation[0]), self.acknowledged.get(slot, 0), self.begun.get(slot, 0)
            if not oldest <= found <= newest:
                wrong.append(f"slot {slot}: generation {found} found, {oldest} acknowledged, {newest} begun")
        assert seen == self.slots, f"{seen} of {self.slots} slots were read"
        assert not wrong, f"{len(wrong)} slots are wrong: " + "; ".join(wrong[:10])
        note(f"{self.slots} slots verified")
