"""Discard and zeroing, verified on the file behind the disk."""
from laboratory import FileSystem, scenario


def allocated(lab, disk="disk"):
    """Bytes that the file behind takes up on its host."""
    blocks = lab.server.text("stat", "-c", "%b", lab.target.file_of(disk))
    return int(blocks) * 512


@scenario(needs={"unmap", "file-disk"})
def fstrim(lab):
    """fstrim gives the space of deleted files back to the file behind the disk."""
    disk = lab.disk(256, kind="file")
    assert int(disk.attribute("queue/discard_max_bytes")) > 0, "the kernel sees no discard"
    system = FileSystem(disk, "ext4", "-E lazy_itable_init=0,lazy_journal_init=0")
    system.mount()
    disk.machine.run(f"dd if=/dev/urandom of={system.folder}/big bs=1M count=128 conv=fsync status=none", timeout=60)
    full = allocated(lab)
    assert full > 128 << 20, full
    disk.machine.run(f"rm {system.folder}/big; sync; fstrim -v {system.folder}", timeout=60)
    lab.wait(lambda: allocated(lab) < full - (100 << 20), f"the file shrinks from {full}", 20)
    system.unmount()
    system.check()


@scenario(needs={"write-same", "file-disk"})
def zeroing(lab):
    """blkdiscard -z: zeros there, seen in the file behind, and nothing else touched."""
    disk = lab.disk(64, kind="file")
    disk.machine.run(f"tr '\\0' '\\245' < /dev/zero | head -c 16M | dd of={disk.path} bs=1M oflag=direct status=none "
                     "iflag=fullblock", timeout=60)  # fmt: skip
    disk.machine.run("blkdiscard", "-z", "-o", 4 << 20, "-l", 8 << 20, disk.path)
    disk.machine.run("blockdev", "--flushbufs", disk.path)
    disk.machine.run("sg_sync", disk.path)
    behind = lab.server.get(lab.target.file_of("disk"), 0, 16 << 20)
    assert behind[: 4 << 20] == b"\xa5" * (4 << 20)
    assert behind[4 << 20 : 12 << 20] == bytes(8 << 20)
    assert behind[12 << 20 :] == b"\xa5" * (4 << 20)
