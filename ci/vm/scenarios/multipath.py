"""Two portals, one disk: dm-multipath over two segments."""
from laboratory import Journal, Topology, scenario, verify_with_fio
from laboratory.multipath import QUICK, Multipath
from laboratory.workload import figures, start_fio

TWO_PATHS = Topology(segments=2)


def over_both(lab, kind="ram"):
    iqn = lab.serve(kind=kind)
    for portal in lab.portals():
        lab.initiator().login(iqn, portal, settings=QUICK).disk(1)
    multipath = Multipath(lab.guest, lab.out / "multipathd.log")
    multipath.wait_for_active(2)
    return multipath


@scenario(topology=TWO_PATHS, timeout=60)
def one_disk(lab):
    """Both paths show one logical unit: one map, and what is written through it verifies."""
    multipath = over_both(lab)
    verify_with_fio(multipath.disk, size="16M")


@scenario(topology=TWO_PATHS, timeout=100)
def path_fails_and_returns(lab):
    """Each path is cut once under fio verify and a journal: no error comes through, and the path is used again."""
    multipath = over_both(lab)
    verify = start_fio(
        multipath.disk, rw="randwrite", bs="8k", offset="16M", size="16M", iodepth=16, verify="crc32c",
        verify_fatal=1, do_verify=1, rate_iops=150,
    )  # fmt: skip
    journal = Journal(multipath.disk, seed=lab.seed)
    journal.start()
    for segment in range(2):
        before = journal.count()
        lab.port(segment=segment).cut()
        multipath.wait_for_active(1)
        lab.wait(lambda: journal.count() > before + 50, "writes go on over the other path", 20)
        lab.port(segment=segment).restore()
        multipath.wait_for_active(2)
    journal.stop()
    journal.verify()
    figures(verify.wait(60))


@scenario(topology=TWO_PATHS, timeout=60, needs={"persistent-reservations", "read-full-status"})
def persistent_reservation_through_the_map(lab):
    """mpathpersist registers every path with one key, reserves, and a path that comes back is registered again."""
    iqn = lab.serve()
    for portal in lab.portals():
        lab.initiator().login(iqn, portal, settings=QUICK).disk(1)
    multipath = Multipath(lab.guest, lab.out / "multipathd.log", "    reservation_key 0xabc\n")
    multipath.wait_for_active(2)
    path = multipath.disk.path
    lab.guest.run("mpathpersist", "--out", "--register", "--param-sark=0xabc", path)
    lab.guest.run("mpathpersist", "--out", "--reserve", "--param-rk=0xabc", "--prout-type=5", path)
    shown = lab.guest.text("mpathpersist", "--in", "-k", path)
    assert shown.count("0xabc") == 2, f"both paths are registered: {shown}"
    verify_with_fio(multipath.disk, size="8M")
    lab.port(segment=0).cut()
    multipath.wait_for_active(1)
    lab.port(segment=0).restore()
    multipath.wait_for_active(2)
    verify_with_fio(multipath.disk, size="8M")
    lab.guest.run("mpathpersist", "--out", "--release", "--param-rk=0xabc", "--prout-type=5", path)
    lab.guest.run("mpathpersist", "--out", "--clear", "--param-rk=0xabc", path)
