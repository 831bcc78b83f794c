"""The disk behind the target answers with errors: the initiator must be told, and told nothing else."""
from laboratory import Topology, scenario, scsi

BESIDE = Topology(target="guest")


def serve_failing(lab):
    """A target on a disk that can be told to fail, with a pattern on it."""
    behind = lab.volatile_disk(16)
    lab.target.start(lab.portals())
    lab.target.create_disk_on("disk", behind.attach(lab.server))
    lab.target.create_node(lab.iqn(), {1: "disk"})
    disk = lab.initiator().login(lab.iqn(), lab.portal()).disk(1)
    disk.clear_unit_attentions()
    disk.scsi(scsi.write_16(64, 8), data_out=b"\x3c" * 4096).good()
    return behind, disk


@scenario(topology=BESIDE, kinds=("uml",))
def failed_reads(lab):
    """A failed read ends with MEDIUM ERROR and without a byte of data; the next one reads."""
    behind, disk = serve_failing(lab)
    behind.fail("reads")
    reply = disk.scsi(scsi.read_16(64, 8), data_in=4096)
    reply.check(scsi.MEDIUM_ERROR, scsi.UNRECOVERED_READ_ERROR)
    assert reply.data == b"", f"{len(reply.data)} bytes came with the error"
    read = lab.guest.run("dd", f"if={disk.path}", "of=/dev/null", "bs=4096", "count=1", "iflag=direct", expect=1)
    assert "No data available" in read.err, read.err  # (what Linux makes of MEDIUM ERROR)
    behind.fail(None)
    assert disk.scsi(scsi.read_16(64, 8), data_in=4096).good() == b"\x3c" * 4096


@scenario(topology=BESIDE, kinds=("uml",))
def failed_writes(lab):
    """A failed write is never answered with GOOD, whatever its form; what was on the disk is still there."""
    behind, disk = serve_failing(lab)
    behind.fail("writes")
    disk.scsi(scsi.write_16(64, 8), data_out=b"\x99" * 4096).check(scsi.MEDIUM_ERROR, scsi.WRITE_ERROR)
    disk.scsi(scsi.write_same_16(64, 8), data_out=b"\x99" * 512).check(scsi.MEDIUM_ERROR, scsi.WRITE_ERROR)
    equal = b"\x3c" * 512 + b"\x99" * 512
    disk.scsi(scsi.compare_and_write(64, 1), data_out=equal).check(scsi.MEDIUM_ERROR, scsi.WRITE_ERROR)
    write = lab.guest.run("dd", "if=/dev/zero", f"of={disk.path}", "bs=4096", "count=1", "oflag=direct", expect=1)
    assert "Input/output error" in write.err, write.err
    behind.fail(None)
    assert disk.scsi(scsi.read_16(64, 8), data_in=4096).good() == b"\x3c" * 4096
    disk.scsi(scsi.write_16(64, 8), data_out=b"\x99" * 4096).good()
