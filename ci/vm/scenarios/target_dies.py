"""The target is killed and started again while its initiator holds the session. What was acknowledged stays."""
from laboratory import Journal, scenario
from laboratory.workload import every_size_at_once, figures


@scenario(needs={"file-disk", "restart"}, timeout=90)
def killed_under_load(lab):
    """kill -9 five times under journaled writes: the session comes back, nothing acknowledged is lost or torn."""
    disk = lab.disk(kind="file")
    journal = Journal(disk, slots=512, seed=lab.seed)
    journal.start()
    for _ in range(5):
        before = journal.count()
        lab.wait(lambda: journal.count() > before + 100, "writes are acknowledged", 20)
        lab.target.kill()
        lab.host.run(f"sleep {lab.random.uniform(0, 1):.2f}")
        lab.target.restart()
        disk.session.wait_for("LOGGED_IN", 30)
    journal.stop()
    journal.verify()


@scenario(needs={"restart"}, timeout=60)
def gone_for_good(lab):
    """A target that does not come back: after the replacement timeout I/O fails, with an error and not a hang."""
    disk = lab.disk(login={"settings": {"node.session.timeo.replacement_timeout": "5"}})
    disk.write(0, b"\x11" * 4096)
    lab.target.kill()
    write = lab.guest.start("dd", "if=/dev/zero", f"of={disk.path}", "bs=4096", "count=1", "oflag=direct")
    result = write.wait(30, expect=1)
    assert "Input/output error" in result.err, result.err
    # and the session is taken up again when it does
    lab.target.restart()
    disk.session.wait_for("LOGGED_IN", 30)
    lab.wait(lambda: disk.attribute("device/state") == "running", "the disk runs again", 20)
    disk.write(0, b"\x22" * 4096)


@scenario(timeout=60)
def frozen(lab):
    """The target holds still for longer than NOP-Out waits: the session is dropped, taken up again, and I/O goes on."""
    disk = lab.disk()
    journal = Journal(disk, seed=lab.seed)
    journal.start()
    lab.wait(lambda: journal.count() > 50, "writes are acknowledged")
    lab.target.freeze()
    disk.session.wait_for("FAILED", 15)
    lab.target.thaw()
    disk.session.wait_for("LOGGED_IN", 30)
    before = journal.count()
    lab.wait(lambda: journal.count() > before + 50, "writes go on", 20)
    journal.stop()
    journal.verify()


@scenario(needs={"file-disk", "restart"}, timeout=120)
def killed_under_every_size(lab):
    """kill -9 three times under fio verify of 512 B to 4 MiB, depth 1, 16 and 128 at once: no error, no wrong byte."""
    disk = lab.disk(128, kind="file")
    work = every_size_at_once(disk, seconds=20)
    for _ in range(3):
        lab.host.run(f"sleep {lab.random.uniform(1, 3):.2f}")
        lab.target.kill()
        lab.host.run(f"sleep {lab.random.uniform(0, 1):.2f}")
        lab.target.restart()
        disk.session.wait_for("LOGGED_IN", 30)
    for process in work:
        figures(process.wait(90))
