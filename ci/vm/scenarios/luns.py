"""Logical units that come, go and change their size while sessions are up."""
from laboratory import Topology, scenario, scsi
from laboratory.workload import figures, start_fio


def two_luns(lab):
    """LUN 1 is used; LUN 2 is what changes."""
    iqn = lab.serve()
    lab.target.create_disk("other", 32)
    return iqn, lab.initiator().login(iqn, lab.portal()).disk(1)


def load(disk):
    return start_fio(disk, rw="randwrite", bs="4k", size="16M", iodepth=8, runtime=6, time_based=True,
                     verify="crc32c", verify_fatal=1)  # fmt: skip


@scenario(needs={"hot-lun"}, every_kind=True)
def added(lab):
    """A LUN added under load: the exact unit attention, REPORT LUNS tells it, a scan finds it."""
    iqn, disk = two_luns(lab)
    disk.clear_unit_attentions()
    assert 2 not in disk.reported_luns()
    lab.step("add LUN 2")
    lab.target.add_lun(iqn, 2, "other")
    disk.expect_unit_attention(scsi.REPORTED_LUNS_DATA_HAS_CHANGED)
    assert disk.clear_unit_attentions() == [], "it is told once"
    assert 2 in disk.reported_luns()
    work = load(disk)
    disk.session.rescan()
    other = disk.session.disk(2)
    assert other.bytes == 32 << 20
    other.clear_unit_attentions()
    other.write(0, b"\x77" * 4096)
    figures(work.wait(60))


@scenario(needs={"hot-lun"})
def removed(lab):
    """A LUN removed under load: commands to it get LOGICAL UNIT NOT SUPPORTED, the others never notice."""
    iqn, disk = two_luns(lab)
    lab.target.add_lun(iqn, 2, "other")
    disk.clear_unit_attentions()
    disk.session.rescan()
    other = disk.session.disk(2)
    other.clear_unit_attentions()
    work = load(disk)
    lab.step("remove LUN 2")
    lab.target.remove_lun(iqn, 2)
    reply = other.scsi(scsi.test_unit_ready())
    if reply.sense and reply.sense.key == scsi.UNIT_ATTENTION:
        reply = other.scsi(scsi.test_unit_ready())
    reply.check(scsi.ILLEGAL_REQUEST, scsi.LOGICAL_UNIT_NOT_SUPPORTED)
    # INQUIRY is answered all the same, and says that nothing is there (SPC-5: qualifier 011b, type 1Fh).
    data = other.scsi(scsi.inquiry(), data_in=255).good()
    assert data[0] == 0x7F, f"peripheral qualifier and type are {data[0]:02X}h"
    figures(work.wait(60))
    assert 2 not in disk.reported_luns()


@scenario(needs={"hot-lun"})
def removed_while_it_works(lab):
    """The LUN that works is removed: its I/O ends with an error and not a hang; the others learn it by the exact attention."""
    iqn, disk = two_luns(lab)
    lab.target.add_lun(iqn, 2, "other")
    disk.clear_unit_attentions()
    disk.session.rescan()
    other = disk.session.disk(2)
    other.clear_unit_attentions()
    work = start_fio(other, rw="randwrite", bs="4k", size="16M", iodepth=8, runtime=60, time_based=True)
    lab.wait(lambda: int(other.attribute("stat").split()[4]) > 100, "writes arrive")
    lab.step("remove LUN 2")
    lab.target.remove_lun(iqn, 2)
    ended = work.wait(30, expect=None)
    assert ended.code != 0, "fio went on writing to a LUN that is gone"
    disk.expect_unit_attention(scsi.REPORTED_LUNS_DATA_HAS_CHANGED)
    assert disk.clear_unit_attentions() == [], "it is told once"
    assert 2 not in disk.reported_luns()
    disk.write(0, b"\x55" * 4096)


def act_on_attentions(machine):
    """udev, with a rule for each unit attention that asks for a look at the units."""
    machine.run("/lib/systemd/systemd-udevd --daemon; udevadm trigger; udevadm settle", timeout=60)
    told = 'ACTION=="change", SUBSYSTEM=="scsi", ENV{SDEV_UA}=='
    machine.put(
        "/etc/udev/rules.d/90-lun.rules",
        f"{told}\"REPORTED_LUNS_DATA_HAS_CHANGED\", "
        "RUN+=\"/bin/sh -c 'for h in /sys/class/scsi_host/host*/scan; do echo - - - > $$h; done'\"\n"
        f"{told}\"CAPACITY_DATA_HAS_CHANGED\", RUN+=\"/bin/sh -c 'echo 1 > /sys$devpath/rescan'\"\n",
    )
    machine.run("udevadm control --reload")


@scenario(needs={"resize"})
def grown_by_the_attention_alone(lab):
    """The same rule for CAPACITY DATA HAS CHANGED: the disk has its new size, and nobody has asked for it."""
    disk = lab.disk(64)
    disk.clear_unit_attentions()
    act_on_attentions(lab.guest)
    work = load(disk)
    lab.target.resize_disk("disk", 96)
    disk.wait_for_size(96 << 20)
    figures(work.wait(60))
    disk.write(95 << 20, b"\x66" * 4096)
    assert disk.read(95 << 20, 4096) == b"\x66" * 4096


@scenario(needs={"hot-lun"})
def found_by_the_attention_alone(lab):
    """udev's rule turns REPORTED LUNS DATA HAS CHANGED into a scan: nobody has to ask for one."""
    iqn, disk = two_luns(lab)
    act_on_attentions(lab.guest)
    lab.target.add_lun(iqn, 2, "other")
    disk.read(0, 4096)
    assert disk.session.disk(2).bytes == 32 << 20


@scenario(needs={"resize"})
def resized(lab):
    """A disk that grows under load: CAPACITY DATA HAS CHANGED, the new size by READ CAPACITY, and it can be used."""
    disk = lab.disk(64)
    disk.clear_unit_attentions()
    work = load(disk)
    lab.step("grow it to 96 MiB")
    lab.target.resize_disk("disk", 96)
    figures(work.wait(60))
    # (whoever sent the first command after the change has got the unit attention: the kernel, under load)
    assert disk.capacity() == (96 << 11, 512)
    disk.machine.run(f"echo 1 > /sys/block/{disk.name}/device/rescan")
    disk.wait_for_size(96 << 20)
    disk.write(80 << 20, b"\x99" * 65536)
    assert disk.read(80 << 20, 65536) == b"\x99" * 65536


@scenario(needs={"resize"})
def resize_is_told_once(lab):
    """The exact unit attention of a resize, once to each session."""
    iqn = lab.serve()
    first = lab.initiator().login(iqn, lab.portal())
    disks = [first.disk(1), lab.initiator().another_session(first).disk(1)]
    for disk in disks:
        disk.clear_unit_attentions()
    lab.target.resize_disk("disk", 80)
    for disk in disks:
        disk.expect_unit_attention(scsi.CAPACITY_DATA_HAS_CHANGED)
        assert disk.clear_unit_attentions() == []
        assert disk.capacity() == (80 << 11, 512)
    # past the old end, within the new one; and past the new end
    disks[0].scsi(scsi.write_16((80 << 11) - 1, 1), data_out=bytes(512)).good()
    disks[0].scsi(scsi.write_16(80 << 11, 1), data_out=bytes(512)).check(
        scsi.ILLEGAL_REQUEST, scsi.LBA_OUT_OF_RANGE
    )


@scenario(topology=Topology(guests=2), needs={"multi-initiator"})
def four_initiators_on_one_lun(lab):
    """Four initiator names on two machines write their own quarters at once and read everybody's."""
    iqn = lab.serve()
    disks = []
    for guest in range(2):
        initiator = lab.initiator(guest)
        disks.append(initiator.login(iqn, lab.portal()).disk(1))
        disks.append(initiator.login(iqn, lab.portal(), name=f"{initiator.name}b").disk(1))
    names = {disk.session.parameter("initiatorname") for disk in disks}
    assert len(names) == 4, names
    work = [
        start_fio(disk, rw="randwrite", bs="4k", offset=f"{16 * n}M", size="4M", iodepth=16, verify="crc32c",
                  verify_fatal=1, do_verify=1)  # fmt: skip
        for n, disk in enumerate(disks)
    ]
    for process in work:
        figures(process.wait(60))
    for n, disk in enumerate(disks):
        disk.write(n << 24, bytes([n + 1]) * 4096)
    for n in range(4):
        for disk in disks:
            assert disk.read(n << 24, 4096) == bytes([n + 1]) * 4096, f"quarter {n} as {disk} reads it"
