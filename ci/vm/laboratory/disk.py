"""A SCSI disk as its initiator sees it."""
from laboratory import scsi
from laboratory.machine import eventually


class Disk:
    """A block device of a guest, and the logical unit behind it."""

    def __init__(self, machine, path, session=None):
        self.machine, self.path, self.session = machine, path, session
        self.name = path.rsplit("/", 1)[1]

    def __str__(self):
        return f"{self.machine}:{self.path}"

    def attribute(self, name):
        """A file below /sys/block/NAME (`size`, `device/state`, `queue/discard_max_bytes`)."""
        return self.machine.read(f"/sys/block/{self.name}/{name}")

    def set_attribute(self, name, value):
        self.machine.run(f"echo '{value}' > /sys/block/{self.name}/{name}")

    @property
    def bytes(self):
        return int(self.attribute("size")) * 512

    def wait_for_size(self, size, timeout=20):
        eventually(lambda: self.bytes == size, f"{self} has {size} bytes (it has {self.bytes})", timeout)

    # SCSI

    def scsi(self, cdb, data_out=None, data_in=0, timeout_ms=30000):
        """Sends a CDB as it is."""
        answer = self.machine.scsi(self.path, cdb, data_out, data_in, timeout_ms)
        return scsi.Reply(
            cdb,
            answer["status"],
            scsi.Sense.parse(bytes.fromhex(answer["sense"])),
            bytes.fromhex(answer["data"]),
            answer["residual"],
            answer["host"],
            answer["duration_ms"],
        )

    def clear_unit_attentions(self, limit=8):
        """Takes pending unit attentions, and gives their additional sense codes."""
        taken = []
        for _ in range(limit):
            reply = self.scsi(scsi.test_unit_ready())
            if reply.status == scsi.GOOD:
                return taken
            assert reply.sense and reply.sense.key == scsi.UNIT_ATTENTION, f"a unit attention was expected: {reply}"
            taken.append(reply.sense.code)
        raise AssertionError(f"{self}: no end of unit attentions: {taken}")

    def expect_unit_attention(self, code):
        """The next command must end with this unit attention."""
        self.scsi(scsi.test_unit_ready()).check(scsi.UNIT_ATTENTION, code)

    def capacity(self):
        """(blocks, bytes a block), asked anew."""
        data = self.scsi(scsi.read_capacity_16(), data_in=32).good()
        return int.from_bytes(data[:8], "big") + 1, int.from_bytes(data[8:12], "big")

    def vpd(self, page, length=255):
        """A vital product data page, header included."""
        data = self.scsi(scsi.inquiry(page, length), data_in=length).good()
        assert data[1] == page, f"VPD page {page:02X}h was asked, {data[1]:02X}h came"
        return data

    def reported_luns(self):
        data = self.scsi(scsi.report_luns(), data_in=4096).good()
        count = int.from_bytes(data[:4], "big") // 8
        return sorted(int.from_bytes(data[8 + 8 * n : 10 + 8 * n], "big") & 0x3FFF for n in range(count))

    # Blocks

    def write(self, offset, data):
        """Past the page cache."""
        self.machine.run(
            "dd", f"of={self.path}", "bs=4096", f"seek={offset}", "oflag=direct,seek_bytes", "iflag=fullblock",
            "status=none", stdin=data,
        )  # fmt: skip

    def read(self, offset, length):
        return self.machine.run(
            "dd", f"if={self.path}", "bs=4096", f"skip={offset}", f"count={length}",
            "iflag=direct,skip_bytes,count_bytes", "status=none",
        ).stdout  # fmt: skip
