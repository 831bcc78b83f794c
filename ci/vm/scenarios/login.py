"""Discovery and login."""
from laboratory import Topology, scenario


@scenario(needs={"discovery"})
def discovery(lab):
    """SendTargets names every target node with the portal that was asked."""
    lab.target.start(lab.portals())
    lab.target.create_disk("a", 16)
    lab.target.create_disk("b", 16)
    lab.target.create_node(lab.iqn("a"), {1: "a"})
    lab.target.create_node(lab.iqn("b"), {1: "b"})
    found = lab.initiator().discover(lab.portal())
    assert {(portal, name) for portal, _, name in found} == {
        (lab.portal(), lab.iqn("a")),
        (lab.portal(), lab.iqn("b")),
    }, found
    for name in ("a", "b"):
        session = lab.initiator().login(lab.iqn(name), lab.portal())
        assert session.disk(1).bytes == 16 << 20
        session.logout()
    assert lab.initiator().sessions() == 0


@scenario(timeout=150)
def fifty_in_a_row(lab):
    """Fifty logins and logouts, each with its disk; the target keeps none of them."""
    iqn = lab.serve()
    for _ in range(50):
        session = lab.initiator().login(iqn, lab.portal())
        session.disk(1)
        session.logout()
    assert lab.initiator().sessions() == 0


@scenario()
def eight_sessions(lab):
    """Eight sessions of one initiator to one portal, each with a disk of its own that shows the same blocks."""
    iqn = lab.serve()
    first = lab.initiator().login(iqn, lab.portal())
    sessions = [first] + [lab.initiator().another_session(first) for _ in range(7)]
    disks = [session.disk(1) for session in sessions]
    assert len({disk.path for disk in disks}) == 8
    for number, disk in enumerate(disks):
        disk.write(number * 4096, bytes([number + 1]) * 4096)
    wanted = b"".join(bytes([number + 1]) * 4096 for number in range(8))
    for disk in disks:
        assert disk.read(0, 8 * 4096) == wanted, f"{disk} reads something else"


@scenario(needs={"portals"}, topology=Topology(segments=2))
def several_portals(lab):
    """Every portal is told by SendTargets at any of them, and serves."""
    iqn = lab.serve()
    found = lab.initiator().discover(lab.portal(0))
    assert {portal for portal, _, name in found if name == iqn} == set(lab.portals()), found
    for portal in lab.portals():
        lab.initiator().login(iqn, portal).disk(1)
    assert lab.initiator().sessions() == 2


@scenario(needs={"ipv6"})
def ipv6(lab):
    """Discovery, login and a disk over IPv6."""
    portal = lab.portal(ipv6=True)
    lab.target.start([lab.portal(), portal])
    lab.target.create_disk("disk", 16)
    lab.target.create_node(lab.iqn(), {1: "disk"})
    found = lab.initiator().discover(portal)
    assert lab.iqn() in {name for _, _, name in found}, found
    disk = lab.initiator().login(lab.iqn(), portal).disk(1)
    disk.write(0, b"\x5a" * 65536)
    assert disk.read(0, 65536) == b"\x5a" * 65536
