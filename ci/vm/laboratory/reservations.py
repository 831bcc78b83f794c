"""Persistent reservations by sg_persist, and what other initiators may do meanwhile."""
from laboratory import scsi

WRITE_EXCLUSIVE, EXCLUSIVE_ACCESS = 1, 3
WRITE_EXCLUSIVE_REGISTRANTS_ONLY, EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 5, 6
WRITE_EXCLUSIVE_ALL_REGISTRANTS, EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 7, 8

CONFLICT = 24  # sg3_utils' exit code for RESERVATION CONFLICT


class Registrant:
    """One I_T_L nexus with its key."""

    def __init__(self, disk, key):
        self.disk, self.key = disk, key

    def _out(self, action, *words, expect=0):
        return self.disk.machine.run("sg_persist", "--out", f"--{action}", *words, self.disk.path, expect=expect)

    def register(self, aptpl=False):
        self._out("register", f"--param-sark={self.key:#x}", *(["--param-aptpl"] if aptpl else []))

    def unregister(self):
        self._out("register", f"--param-rk={self.key:#x}", "--param-sark=0")

    def reserve(self, kind, expect=0):
        self._out("reserve", f"--param-rk={self.key:#x}", f"--prout-type={kind}", expect=expect)

    def release(self, kind, expect=0):
        self._out("release", f"--param-rk={self.key:#x}", f"--prout-type={kind}", expect=expect)

    def preempt(self, other, kind, abort=False):
        action = "preempt-abort" if abort else "preempt"
        self._out(action, f"--param-rk={self.key:#x}", f"--param-sark={other.key:#x}", f"--prout-type={kind}")

    def clear(self):
        self._out("clear", f"--param-rk={self.key:#x}")


def keys(disk):
    """Registered keys, sorted, as READ KEYS tells them."""
    data = disk.scsi(bytes([0x5E, 0, 0, 0, 0, 0, 0, 16, 0, 0]), data_in=4096).good()
    length = int.from_bytes(data[4:8], "big")
    return sorted(int.from_bytes(data[at : at + 8], "big") for at in range(8, 8 + length, 8))


def generation(disk):
    data = disk.scsi(bytes([0x5E, 0, 0, 0, 0, 0, 0, 16, 0, 0]), data_in=4096).good()
    return int.from_bytes(data[:4], "big")


def reservation(disk):
    """(key, type) of the reservation, or None."""
    data = disk.scsi(bytes([0x5E, 1, 0, 0, 0, 0, 0, 16, 0, 0]), data_in=4096).good()
    if int.from_bytes(data[4:8], "big") == 0:
        return None
    return int.from_bytes(data[8:16], "big"), data[21] & 0x0F


def may(disk, read, write):
    """Asserts what a nexus may do now: READ and WRITE end with GOOD or RESERVATION CONFLICT, nothing else."""
    for allowed, reply in (
        (read, disk.scsi(scsi.read_16(0, 1), data_in=512)),
        (write, disk.scsi(scsi.write_16(0, 1), data_out=bytes(512))),
    ):
        if allowed:
            reply.good()
        else:
            reply.conflict()
    # INQUIRY passes every reservation (SPC-5 §5.13.1).
    disk.scsi(scsi.inquiry(), data_in=255).good()
