"""A target that is short of memory gets slower, and nothing else."""
from laboratory import FileSystem, Topology, scenario, verify_with_fio
from laboratory.workload import figures, start_fio


@scenario(needs={"small-pool"})
def pool_smaller_than_the_load(lab):
    """64 writes of 1 MiB at once against a pool of 8 MiB: everybody waits his turn, no command fails."""
    lab.target.arguments = ["--pool", "8M"]
    disk = lab.disk(128, kind="file")
    verify_with_fio(disk, bs="1M", size="96M", iodepth=64)
    verify_with_fio(disk, bs="64k", size="32M", iodepth=128)
    verify_with_fio(disk, bs="4k", size="8M", iodepth=128)


@scenario(needs={"small-pool"}, topology=Topology(target="guest"), kinds=("uml",))
def pool_empty_while_the_disk_stalls(lab):
    """Nothing comes back to the pool for some seconds, while writes with unsolicited data arrive: none may fail."""
    behind = lab.volatile_disk(64)
    lab.target.arguments = ["--pool", "8M"]
    lab.target.start(lab.portals())
    lab.target.create_disk_on("disk", behind.attach(lab.server))
    lab.target.create_node(lab.iqn(), {1: "disk"})
    disk = lab.initiator().login(lab.iqn(), lab.portal()).disk(1)
    work = start_fio(disk, rw="randwrite", bs="512k", size="64M", iodepth=64, verify="crc32c", verify_fatal=1,
                     do_verify=1)  # fmt: skip
    lab.wait(lambda: behind.writes > 8, "writes arrive at the disk")
    behind.stall()
    lab.host.run("sleep 4")
    behind.resume()
    figures(work.wait(60))


@scenario(needs={"file-disk"})
def write_back_of_the_page_cache(lab):
    """The kernel writes 128 MiB of dirty pages back in big requests, all at once: no error, and the file is whole."""
    disk = lab.disk(384, kind="file")
    system = FileSystem(disk, "ext4", "-E lazy_itable_init=0,lazy_journal_init=0")
    system.mount()
    big = f"{system.folder}/big"
    for _ in range(3):
        disk.machine.run(f"dd if=/dev/urandom of={big} bs=1M count=128 conv=fsync status=none", timeout=60)
    told = disk.machine.text("sha256sum", big, timeout=60)
    system.unmount()
    system.check()
    system.mount()
    assert disk.machine.text("sha256sum", big, timeout=60) == told
    assert "I/O error" not in disk.machine.text("dmesg", quiet=True)
