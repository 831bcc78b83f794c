"""File systems: made, filled, unmounted, checked, mounted again, compared."""
from laboratory import FileSystem, scenario


def life_of(kind, disk):
    system = FileSystem(disk, kind)
    system.mount()
    system.fill()
    system.unmount()
    system.check()
    # What is compared is read from the target: the unmount has dropped the page cache.
    system.mount()
    system.compare()
    system.unmount()


@scenario()
def ext4(lab):
    """ext4 lives on a disk of the target, and so does what was copied into it."""
    life_of("ext4", lab.disk(128))


@scenario()
def xfs(lab):
    """XFS, with its log."""
    life_of("xfs", lab.disk(320))


@scenario(needs={"file-disk"})
def other_session_reads_the_same(lab):
    """What one session wrote and synchronized is there for the next, after logout and login."""
    disk = lab.disk(128, kind="file")
    system = FileSystem(disk, "ext4")
    system.mount()
    system.fill()
    system.unmount()
    disk.session.logout()
    again = lab.initiator().login(disk.session.iqn, lab.portal())
    system.disk = again.disk(1)
    system.check()
    system.mount()
    system.compare()
