"""Where target and initiator may live: on one machine, on two; under the kernel of the user-mode guest and under Debian's."""
from laboratory import FileSystem, Topology, scenario, verify_with_fio


def works(lab):
    disk = lab.disk(128)
    verify_with_fio(disk, bs="4k", size="4M", iodepth=32)
    verify_with_fio(disk, bs="256k", size="32M", iodepth=8)
    system = FileSystem(disk, "ext4")
    system.mount()
    system.fill()
    system.unmount()
    system.check()
    system.mount()
    system.compare()
    system.unmount()
    disk.session.logout()


@scenario(topology=Topology(target="same"), memory_mib=1024)
def one_machine(lab):
    """Target and initiator in one guest, over its own address."""
    works(lab)


@scenario(topology=Topology(target="guest"))
def two_machines(lab):
    """The target in a guest of its own, the initiator in another."""
    works(lab)


@scenario(kinds=("qemu", "uml"))
def several_processors(lab):
    """Debian's own kernel with two processors: two queues of work on one session at once."""
    assert lab.guest.text("nproc") == ("2" if lab.guest.kind == "qemu" else "1")
    works(lab)
