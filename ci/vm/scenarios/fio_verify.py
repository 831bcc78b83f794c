"""fio writes and verifies: block sizes from 512 B to 4 MiB, depths from 1 to 128."""
from laboratory import scenario, verify_with_fio


@scenario()
def small_blocks(lab):
    """512 B and 4 KiB, one at a time and 128 at a time."""
    disk = lab.disk(64)
    verify_with_fio(disk, bs="512", size="512k", iodepth=1)
    verify_with_fio(disk, bs="512", size="2M", iodepth=128)
    verify_with_fio(disk, bs="4k", size="2M", iodepth=1)
    verify_with_fio(disk, bs="4k", size="16M", iodepth=128)


@scenario()
def big_blocks(lab):
    """64 KiB to 4 MiB: R2T, bursts, Data-In in many PDUs."""
    disk = lab.disk(128)
    verify_with_fio(disk, bs="64k", size="32M", iodepth=32)
    verify_with_fio(disk, bs="1M", size="64M", iodepth=8)
    verify_with_fio(disk, bs="4M", size="64M", iodepth=4)


@scenario()
def mixed(lab):
    """Reads between writes, sizes mixed, odd offsets."""
    disk = lab.disk(64)
    sizes = "512/10:4k/30:12k/20:64k/20:256k/20"
    verify_with_fio(disk, rw="randrw", bssplit=sizes, blockalign=512, size="24M", iodepth=32)
