"""A disk behind the target stalls; the kernel's error handler goes through its stages; I/O goes on afterwards.

Nothing can be taken back from that disk: a write that stalled reaches it late. So no answer to a task management
function may come before that, and no newer write may overtake it, or an old block would be seen over a new one: the
journal would tell.
"""
from laboratory import Journal, Topology, scenario
from laboratory.error_handler import aborted, begin, patience, stages

BESIDE = Topology(target="guest")


class Stall:
    """A target whose disk can stall, and a journal of writes to it."""

    def __init__(self, lab, command_timeout, **waits):
        self.lab, self.behind = lab, lab.volatile_disk(16)
        lab.target.start(lab.portals())
        lab.target.create_disk_on("disk", self.behind.attach(lab.server))
        lab.target.create_node(lab.iqn(), {1: "disk"})
        settings = patience(**{"abort": 40, "lu_reset": 40, "tgt_reset": 40, **waits})
        self.session = lab.initiator().login(lab.iqn(), lab.portal(), settings=settings)
        self.disk = self.session.disk(1)
        begin(self.disk, command_timeout)
        self.journal = Journal(self.disk, slots=16, seed=lab.seed)
        self.journal.start()
        self.writes_go_on()

    def writes_go_on(self):
        before = self.journal.count()
        self.lab.wait(lambda: self.journal.count() > before + 50, "writes are acknowledged", 30)

    def begin(self, writes=None):
        self.behind.stall(writes)
        self.lab.wait(lambda: self.behind.stalled() >= (writes or 1), "requests stall", 10)

    def comes_to(self, *wanted):
        """The error handler comes to the last of these stages by way of the others, and stays there."""
        self.lab.wait(lambda: wanted[-1] in stages(self.disk), f"the error handler comes to {wanted[-1]}", 30, 0.2)
        self.lab.host.run("sleep 1")  # (long enough for an early answer to have come)
        assert stages(self.disk) == list(wanted), stages(self.disk)

    def end(self):
        """Nothing is lost, nothing comes late, nothing stays behind."""
        self.behind.resume()
        self.session.wait_for("LOGGED_IN", 30)
        self.writes_go_on()
        assert self.disk.attribute("device/state") == "running"
        self.journal.stop()
        self.journal.verify()
        self.lab.no_task_is_left()


@scenario(topology=BESIDE, needs={"reset"}, kinds=("uml",))
def abort_task(lab):
    """ABORT TASK is answered when the write has ended, and that is enough: the session stays."""
    stall = Stall(lab, command_timeout=2)
    stall.begin()
    stall.comes_to("abort")
    assert aborted(stall.disk) == 0, "an abort was answered while its write was on its way to the disk"
    stall.end()
    assert "session drop" not in stages(stall.disk)


@scenario(topology=BESIDE, needs={"reset"}, kinds=("uml",))
def abort_not_answered(lab):
    """Who does not wait for the answer drops the session and logs in again, while its writes are still on their way."""
    stall = Stall(lab, command_timeout=2, abort=2)
    stall.begin()
    stall.comes_to("abort", "session drop")
    stall.end()


@scenario(topology=BESIDE, needs={"reset"}, kinds=("uml",))
def late_writes(lab):
    """Two writes stall, the others pass: after the session was dropped no newer write may overtake the old ones."""
    stall = Stall(lab, command_timeout=2, abort=2)
    stall.begin(writes=2)
    stall.comes_to("abort", "session drop")
    lab.host.run("sleep 4")
    stall.end()


def explicit(lab, scope, stage):
    stall = Stall(lab, command_timeout=60)
    stall.begin()
    reset = lab.guest.start("sg_reset", "--no-esc", f"--{scope}", stall.disk.path)
    stall.comes_to(stage)
    assert reset.running, "the reset was answered while writes were on their way to the disk"
    stall.end()
    reset.wait(20)


@scenario(topology=BESIDE, needs={"reset"}, kinds=("uml",))
def lun_reset(lab):
    """LOGICAL UNIT RESET under load is answered when all that was in the disk has ended."""
    explicit(lab, "device", "lun reset")


@scenario(topology=BESIDE, needs={"target-reset"}, kinds=("uml",))
def target_reset(lab):
    """TARGET WARM RESET under load, the same."""
    explicit(lab, "target", "target reset")


@scenario(needs={"delay", "reset"})
def abort_of_what_can_be_cancelled(lab):
    """Operations that wait in front of the device are taken back: ABORT TASK is answered at once, nothing is written."""
    lab.target.start(lab.portals())
    lab.target.create_disk("base", 32)
    lab.target.create_slow_disk("disk", "base")
    lab.target.create_node(lab.iqn(), {1: "disk"})
    disk = lab.initiator().login(lab.iqn(), lab.portal()).disk(1)
    begin(disk, command_timeout=2)
    journal = Journal(disk, slots=16, seed=lab.seed)
    journal.start()
    for _ in range(3):
        before, done = journal.count(), aborted(disk)
        lab.wait(lambda: journal.count() > before + 50, "writes are acknowledged", 30)
        lab.step("operations wait, and can be taken back")
        lab.target.set_delay("disk", None)
        lab.wait(lambda: aborted(disk) > done, "a command is aborted while the others wait", 20, 0.1)
        lab.target.set_delay("disk", 0)
        before = journal.count()
        lab.wait(lambda: journal.count() > before + 50, "writes go on", 30)
    assert "session drop" not in stages(disk), "the session stays"
    journal.stop()
    journal.verify()
