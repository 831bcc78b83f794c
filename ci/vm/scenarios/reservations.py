"""Reservations, SPC-2 and persistent, between two initiators."""
from laboratory import Topology, scenario, scsi
from laboratory.reservations import (
    CONFLICT,
    EXCLUSIVE_ACCESS,
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS,
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY,
    WRITE_EXCLUSIVE,
    WRITE_EXCLUSIVE_ALL_REGISTRANTS,
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY,
    Registrant,
    generation,
    keys,
    may,
    reservation,
)

TWO = Topology(guests=2)


def two_disks(lab, kind="ram"):
    """The same logical unit, seen by two initiators."""
    iqn = lab.serve(kind=kind)
    disks = [lab.initiator(n).login(iqn, lab.portal()).disk(1) for n in range(2)]
    for disk in disks:
        disk.clear_unit_attentions()
    return disks


@scenario(topology=TWO, needs={"spc2-reservations"})
def reserve_and_release(lab):
    """RESERVE(6): the other initiator gets RESERVATION CONFLICT until RELEASE, logout or LOGICAL UNIT RESET."""
    a, b = two_disks(lab)
    a.scsi(scsi.reserve_6()).good()
    a.scsi(scsi.write_16(0, 1), data_out=bytes(512)).good()
    b.scsi(scsi.read_16(0, 1), data_in=512).conflict()
    b.scsi(scsi.write_16(0, 1), data_out=bytes(512)).conflict()
    b.scsi(scsi.reserve_6()).conflict()
    b.scsi(scsi.inquiry(), data_in=255).good()
    # A release by who does not hold it is GOOD and changes nothing (SPC-2 §7.14).
    b.scsi(scsi.release_6()).good()
    b.scsi(scsi.read_16(0, 1), data_in=512).conflict()
    a.scsi(scsi.release_6()).good()
    b.scsi(scsi.read_16(0, 1), data_in=512).good()
    lab.step("the holder logs out")
    a.scsi(scsi.reserve_6()).good()
    b.scsi(scsi.read_16(0, 1), data_in=512).conflict()
    a.session.logout()
    lab.wait(lambda: b.scsi(scsi.read_16(0, 1), data_in=512).status == scsi.GOOD, "logout ends the reservation", 10)


@scenario(topology=TWO, needs={"spc2-reservations", "reset"})
def reset_ends_a_reservation(lab):
    """LOGICAL UNIT RESET by the other initiator ends RESERVE(6), and both learn of it."""
    a, b = two_disks(lab)
    a.scsi(scsi.reserve_6()).good()
    b.scsi(scsi.read_16(0, 1), data_in=512).conflict()
    b.machine.run("sg_reset", "--device", b.path)
    for disk in (a, b):
        codes = disk.clear_unit_attentions()
        assert any(code == 0x29 for code, _ in codes) or disk is b, f"{disk}: {codes}"
    b.scsi(scsi.read_16(0, 1), data_in=512).good()


@scenario(topology=TWO, needs={"persistent-reservations"})
def types(lab):
    """What holder, registrant and stranger may do under each of the six types."""
    a, b = two_disks(lab)
    ours, theirs = Registrant(a, 0xA1), Registrant(b, 0xB2)
    # type: what a stranger may, what a registrant who does not hold it may, as (read, write)
    table = {
        WRITE_EXCLUSIVE: ((True, False), (True, False)),
        EXCLUSIVE_ACCESS: ((False, False), (False, False)),
        WRITE_EXCLUSIVE_REGISTRANTS_ONLY: ((True, False), (True, True)),
        EXCLUSIVE_ACCESS_REGISTRANTS_ONLY: ((False, False), (True, True)),
        WRITE_EXCLUSIVE_ALL_REGISTRANTS: ((True, False), (True, True)),
        EXCLUSIVE_ACCESS_ALL_REGISTRANTS: ((False, False), (True, True)),
    }
    for kind, (stranger, registrant) in table.items():
        lab.step(f"persistent reservation of type {kind}")
        ours.register()
        ours.reserve(kind)
        assert reservation(b)[1] == kind
        may(a, True, True)
        may(b, *stranger)
        theirs.register()
        may(b, *registrant)
        theirs.unregister()
        ours.release(kind)
        assert reservation(b) is None
        may(b, True, True)
        ours.unregister()
        assert keys(a) == []
        for disk in (a, b):
            disk.clear_unit_attentions()


@scenario(topology=TWO, needs={"persistent-reservations"})
def conflicts(lab):
    """Wrong keys, foreign reservations, RESERVE(6) beside registrations: RESERVATION CONFLICT where the standard has it."""
    a, b = two_disks(lab)
    ours, theirs = Registrant(a, 0xA1), Registrant(b, 0xB2)
    before = generation(a)
    theirs.reserve(WRITE_EXCLUSIVE, expect=CONFLICT)  # not registered
    ours.register()
    theirs.register()
    assert keys(a) == [0xA1, 0xB2] == keys(b)
    assert generation(b) == before + 2
    ours.reserve(WRITE_EXCLUSIVE)
    ours.reserve(WRITE_EXCLUSIVE)  # the same again is no conflict
    ours.reserve(EXCLUSIVE_ACCESS, expect=CONFLICT)  # another type is
    theirs.reserve(WRITE_EXCLUSIVE, expect=CONFLICT)
    Registrant(a, 0xDEAD).release(WRITE_EXCLUSIVE, expect=CONFLICT)  # a key that is not ours
    assert reservation(b) == (0xA1, WRITE_EXCLUSIVE)
    # RELEASE by a registrant that does not hold it: GOOD, and nothing happens (SPC-5 §5.13.11.2.2).
    theirs.release(WRITE_EXCLUSIVE)
    assert reservation(b) == (0xA1, WRITE_EXCLUSIVE)
    a.scsi(scsi.reserve_6()).conflict()
    b.scsi(scsi.reserve_6()).conflict()


@scenario(topology=TWO, needs={"persistent-reservations"})
def preempted(lab):
    """PREEMPT takes the reservation over; who lost its registration learns it by the exact unit attention."""
    a, b = two_disks(lab)
    ours, theirs = Registrant(a, 0xA1), Registrant(b, 0xB2)
    ours.register()
    theirs.register()
    ours.reserve(WRITE_EXCLUSIVE)
    theirs.preempt(ours, WRITE_EXCLUSIVE)
    assert reservation(b) == (0xB2, WRITE_EXCLUSIVE)
    assert keys(b) == [0xB2]
    a.expect_unit_attention(scsi.REGISTRATIONS_PREEMPTED)
    may(a, True, False)
    may(b, True, True)
    theirs.clear()
    assert reservation(a) is None and keys(a) == []
    may(a, True, True)


@scenario(topology=TWO, needs={"persistent-reservations", "aptpl", "restart", "file-disk"})
def keys_outlive_the_target(lab):
    """With APTPL registrations and reservation are there again after the target was killed and started; without, not."""
    a, b = two_disks(lab, kind="file")
    ours, theirs = Registrant(a, 0xA1), Registrant(b, 0xB2)
    ours.register(aptpl=True)
    theirs.register(aptpl=True)
    ours.reserve(EXCLUSIVE_ACCESS)
    lab.target.kill()
    lab.target.restart()
    for disk in (a, b):
        disk.session.wait_for("LOGGED_IN", 30)
        disk.clear_unit_attentions()
    assert keys(b) == [0xA1, 0xB2]
    assert reservation(b) == (0xA1, EXCLUSIVE_ACCESS)
    may(a, True, True)
    may(b, False, False)
    ours.clear()
    for disk in (a, b):
        disk.clear_unit_attentions()
    ours.register()
    lab.target.kill()
    lab.target.restart()
    for disk in (a, b):
        disk.session.wait_for("LOGGED_IN", 30)
        disk.clear_unit_attentions()
    assert keys(b) == []
