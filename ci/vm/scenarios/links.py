"""Links that are slow, lossy, out of order, and gone for a while. Nothing may be lost or torn by that."""
from laboratory import Journal, Topology, scenario, verify_with_fio
from laboratory.workload import every_size_at_once, figures, start_fio

BAD_LINK = Topology(impaired=True)


@scenario(topology=BAD_LINK)
def slow(lab):
    """20 ms each way with jitter: many commands outstanding, R2T one round trip each."""
    disk = lab.disk()
    lab.port().impair(delay_ms=20, jitter_ms=5)
    verify_with_fio(disk, bs="4k", size="2M", iodepth=64)
    verify_with_fio(disk, bs="1M", size="8M", iodepth=8)


@scenario(topology=BAD_LINK)
def lossy(lab):
    """One frame in a hundred is lost, one in fifty comes late."""
    disk = lab.disk()
    lab.port().impair(loss=0.01, reorder=0.02, hold_ms=3)
    verify_with_fio(disk, bs="4k", size="4M", iodepth=32)
    verify_with_fio(disk, bs="256k", size="16M", iodepth=8)
    counted = lab.port().relayed()
    assert counted["in"]["lost"] and counted["out"]["lost"] and counted["in"]["reordered"], counted


@scenario(topology=BAD_LINK, nightly=True, timeout=240)
def lossy_big_blocks(lab):
    """4 MiB blocks over a link that loses and delays."""
    disk = lab.disk(128)
    lab.port().impair(loss=0.01, reorder=0.02, delay_ms=2, jitter_ms=3)
    verify_with_fio(disk, bs="4M", size="96M", iodepth=4, timeout=220)


@scenario(timeout=90)
def cut_and_restored(lab):
    """The link is cut for longer than NOP-Out waits, three times, under fio and a journal."""
    disk = lab.disk()
    verify = start_fio(
        disk, rw="randwrite", bs="8k", offset="16M", size="32M", iodepth=16, verify="crc32c", verify_fatal=1,
        do_verify=1, rate_iops=200,
    )  # fmt: skip
    journal = Journal(disk, seed=lab.seed)
    journal.start()
    lab.guest.run("sleep 2")
    for _ in range(3):
        before = journal.count()
        lab.port().cut()
        disk.session.wait_for("FAILED", 15)
        lab.port().restore()
        disk.session.wait_for("LOGGED_IN", 20)
        lab.wait(lambda: journal.count() > before + 50, "writes go on", 20)
    journal.stop()
    journal.verify()
    figures(verify.wait(80))


@scenario()
def short_cuts(lab):
    """Cuts shorter than any timeout: TCP alone repairs them and the session stays up."""
    disk = lab.disk()
    journal = Journal(disk, seed=lab.seed)
    journal.start()
    for _ in range(8):
        lab.guest.run(f"sleep {lab.random.uniform(0.2, 0.6):.2f}")
        lab.port().cut()
        lab.host.run("sleep 0.3")
        lab.port().restore()
    journal.stop()
    assert disk.session.state == "LOGGED_IN"
    journal.verify()


@scenario(topology=BAD_LINK, timeout=120)
def cut_under_every_size(lab):
    """A slow and lossy link that is cut three times until the session fails, under fio verify of 512 B to 4 MiB."""
    disk = lab.disk(128)
    work = every_size_at_once(disk, seconds=20)
    lab.port().impair(delay_ms=2, jitter_ms=2, loss=0.002, reorder=0.01, hold_ms=3)
    for _ in range(3):
        lab.host.run(f"sleep {lab.random.uniform(1, 2):.2f}")
        lab.port().cut()
        disk.session.wait_for("FAILED", 15)
        lab.port().restore()
        disk.session.wait_for("LOGGED_IN", 20)
    for process in work:
        figures(process.wait(90))
    counted = lab.port().relayed()
    assert counted["in"]["lost"] and counted["out"]["lost"], counted
