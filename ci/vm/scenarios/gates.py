"""COMPARE AND WRITE keeps others off its blocks: whom it waits for, who waits for it, and what an abort leaves of them.

One write stalls in the disk behind the target; everything else passes there. So the moment in which commands wait for each
other, otherwise microseconds, lasts as long as the scenario wants.
"""
from concurrent.futures import ThreadPoolExecutor

from laboratory import Topology, scenario, scsi

BESIDE = Topology(target="guest")
NEEDS = {"compare-and-write", "reset"}
OLD, NEW, SWAPPED, LATER = b"\x01" * 512, b"\x02" * 512, b"\x03" * 512, b"\x04" * 512
LBA, RUN = 64, 8


class Crossing:
    """A write of NEW to a run of blocks stalls; COMPARE AND WRITE of its first block, NEW against SWAPPED, stands behind it."""

    def __init__(self, lab):
        self.lab, self.behind = lab, lab.volatile_disk(16)
        lab.target.start(lab.portals())
        lab.target.create_disk_on("disk", self.behind.attach(lab.server))
        lab.target.create_node(lab.iqn(), {1: "disk"})
        session = lab.initiator().login(lab.iqn(), lab.portal())
        # (a session of its own: the kernel lets no command time out before the older ones of its session do)
        self.disk, self.beside = session.disk(1), lab.initiator().another_session(session).disk(1)
        for disk in (self.disk, self.beside):
            disk.clear_unit_attentions()
        self.write(OLD, 2 * RUN).good()
        self._pool = ThreadPoolExecutor(4)
        self.behind.stall(writes=1)
        self.first = self._pool.submit(self.write, NEW)
        lab.wait(lambda: self.behind.stalled() == 1, "the write stalls in the disk")
        self.swap = self._pool.submit(self.disk.scsi, scsi.compare_and_write(LBA, 1), NEW + SWAPPED)
        self.stands(self.swap, "COMPARE AND WRITE")

    def write(self, block, blocks=RUN, disk=None, **options):
        return (disk or self.disk).scsi(scsi.write_16(LBA, blocks), data_out=block * blocks, **options)

    def submit_beside(self, block, blocks=RUN, **options):
        """A write of the other session."""
        return self._pool.submit(self.write, block, blocks, self.beside, **options)

    def stands(self, command, name):
        self.lab.host.run("sleep 1")  # (long enough for an early answer to have come)
        assert not command.done(), f"{name} did not wait: {command.result()}"

    def goes_on(self):
        self.behind.resume()
        self.first.result().good()
        self.swap.result().good()

    def blocks(self):
        return self.disk.scsi(scsi.read_16(LBA, 2 * RUN), data_in=512 * 2 * RUN).good()


@scenario(topology=BESIDE, needs=NEEDS, kinds=("uml",))
def compare_waits_for_writes(lab):
    """COMPARE AND WRITE compares with what the write before it brought, not with what was there when it came."""
    crossing = Crossing(lab)
    crossing.goes_on()
    assert crossing.blocks() == SWAPPED + NEW * (RUN - 1) + OLD * RUN


@scenario(topology=BESIDE, needs=NEEDS, kinds=("uml",))
def writes_wait_for_compare(lab):
    """A write to the same blocks waits until COMPARE AND WRITE has ended, and is then performed; others pass."""
    crossing = Crossing(lab)
    later = crossing.submit_beside(LATER)
    crossing.stands(later, "the later write")
    crossing.disk.scsi(scsi.write_16(LBA + RUN, 1), data_out=SWAPPED).good()
    crossing.goes_on()
    later.result().good()
    assert crossing.blocks() == LATER * RUN + SWAPPED + OLD * (RUN - 1)


@scenario(topology=BESIDE, needs=NEEDS, kinds=("uml",))
def aborted_while_it_waits(lab):
    """A write that was aborted while it waited is never performed: not then, and not when the way is free."""
    crossing = Crossing(lab)
    # (longer than the write that stalls, which would hide it)
    aborted = crossing.submit_beside(LATER, 2 * RUN, timeout_ms=2000)
    reply = lab.wait(lambda: aborted.done() and aborted.result(), "the kernel aborts the write that waits", 20)
    assert reply.host != 0, f"the write that waits should have timed out: {reply}"
    crossing.goes_on()
    lab.no_task_is_left()
    assert crossing.blocks() == SWAPPED + NEW * (RUN - 1) + OLD * RUN
