"""The machine that holds target and disk loses its power; its disk keeps what was flushed, and of the rest what it likes.

What the initiator was told is durable (O_DSYNC: a write with FUA, or a SYNCHRONIZE CACHE after it) must be there.
"""
from laboratory import Journal, Topology, scenario

BESIDE = Topology(target="guest")


def serve_volatile(lab, **how):
    """A target in a guest of its own, on a disk with a volatile cache."""
    behind = lab.volatile_disk(16)
    lab.target.start(lab.portals())
    lab.target.create_disk_on("disk", behind.attach(lab.server), **how)
    lab.target.create_node(lab.iqn(), {1: "disk"})
    return behind, lab.initiator().login(lab.iqn(), lab.portal()).disk(1)


def power_cuts(lab, behind, disk, rounds, how="dsync"):
    journal = Journal(disk, slots=512, seed=lab.seed, how=how)
    journal.start()
    for number in range(rounds):
        before = journal.count()
        some = lab.random.randrange(20, 200)
        lab.wait(lambda: journal.count() > before + some, "writes are acknowledged", 30)
        lab.step(f"power cut {number + 1} of {rounds}")
        lab.server.kill()
        behind.cut_power()
        # (the last acknowledgements are still on their way to us: nothing new can be acknowledged now)
        lab.host.run("sleep 0.2", quiet=True)
        journal.verify_image(behind.durable)
        journal.power_was_cut()
        lab.server.boot()
        lab.server.ready()
        behind.attach(lab.server)
        lab.target.restart()
        disk.session.wait_for("LOGGED_IN", 40)
    journal.stop()
    journal.verify()


@scenario(topology=BESIDE, needs={"restart", "sync"}, kinds=("uml",), timeout=60)
def cut_three_times(lab):
    """Three power cuts under journaled writes: everything acknowledged as durable is on the disk."""
    behind, disk = serve_volatile(lab)
    power_cuts(lab, behind, disk, 3)


@scenario(topology=BESIDE, needs={"restart", "sync"}, kinds=("uml",), timeout=60)
def flushes_alone(lab):
    """Writes without FUA, each followed by a SYNCHRONIZE CACHE of its own: what it was answered for is on the disk."""
    behind, disk = serve_volatile(lab)
    power_cuts(lab, behind, disk, 3, how="fsync")


@scenario(topology=BESIDE, needs={"restart", "sync"}, kinds=("uml",), timeout=60)
def fua_alone(lab):
    """Writes with FUA and no flush after them: what was answered is on the disk."""
    behind, disk = serve_volatile(lab)
    power_cuts(lab, behind, disk, 3, how="fua")


@scenario(topology=BESIDE, needs={"restart", "sync"}, kinds=("uml",), timeout=900, nightly=True)
def cut_fifty_times(lab):
    """The same fifty times."""
    behind, disk = serve_volatile(lab)
    power_cuts(lab, behind, disk, 50)


@scenario(topology=BESIDE, needs={"restart", "nv-cache"}, kinds=("uml",), timeout=60)
def a_skipped_flush_is_noticed(lab):
    """The proof of the two above: with flushes answered at once and not done, writes are lost, and that is seen."""
    behind, disk = serve_volatile(lab, nv_cache=True)
    try:
        power_cuts(lab, behind, disk, 3)
    except AssertionError as noticed:
        assert "slots are wrong" in str(noticed), noticed
    else:
        raise AssertionError("three power cuts without a flush, and nothing was missed")
