"""Words of SPC and SBC that scenarios speak: CDBs, statuses, sense data."""
from dataclasses import dataclass

GOOD, CHECK_CONDITION, BUSY, RESERVATION_CONFLICT = 0x00, 0x02, 0x08, 0x18

NO_SENSE, RECOVERED_ERROR, NOT_READY, MEDIUM_ERROR = 0x0, 0x1, 0x2, 0x3
HARDWARE_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT = 0x4, 0x5, 0x6, 0x7
ABORTED_COMMAND, MISCOMPARE = 0xB, 0xE

# Additional sense codes as (code, qualifier): names of SPC-5 annex F.
WRITE_ERROR, UNRECOVERED_READ_ERROR = (0x0C, 0x00), (0x11, 0x00)
INVALID_COMMAND_OPERATION_CODE = (0x20, 0x00)
LBA_OUT_OF_RANGE = (0x21, 0x00)
INVALID_FIELD_IN_CDB = (0x24, 0x00)
LOGICAL_UNIT_NOT_SUPPORTED = (0x25, 0x00)
INVALID_FIELD_IN_PARAMETER_LIST = (0x26, 0x00)
POWER_ON_OCCURRED = (0x29, 0x00)
RESERVATIONS_PREEMPTED = (0x2A, 0x03)
RESERVATIONS_RELEASED = (0x2A, 0x04)
REGISTRATIONS_PREEMPTED = (0x2A, 0x05)
CAPACITY_DATA_HAS_CHANGED = (0x2A, 0x09)
MISCOMPARE_DURING_VERIFY = (0x1D, 0x00)
REPORTED_LUNS_DATA_HAS_CHANGED = (0x3F, 0x0E)


@dataclass(frozen=True)
class Sense:
    """Sense data, fixed (70h) or descriptor (72h) format."""

    key: int
    code: tuple
    raw: bytes

    @classmethod
    def parse(cls, raw):
        if len(raw) < 4:
            return None
        form = raw[0] & 0x7F
        if form in (0x70, 0x71):
            code = (raw[12], raw[13]) if len(raw) > 13 else (0, 0)
            return cls(raw[2] & 0x0F, code, raw)
        if form in (0x72, 0x73):
            return cls(raw[1] & 0x0F, (raw[2], raw[3]), raw)
        return cls(-1, (0, 0), raw)

    @property
    def information(self):
        """The INFORMATION field, when it is valid."""
        if self.raw[0] & 0x7F in (0x70, 0x71):
            return int.from_bytes(self.raw[3:7], "big") if self.raw[0] & 0x80 else None
        at = 8
        while at + 12 <= len(self.raw):
            if self.raw[at] == 0x00:
                return int.from_bytes(self.raw[at + 4 : at + 12], "big")
            at += 2 + self.raw[at + 1]
        return None

    def __str__(self):
        return f"sense key {self.key:X}h, {self.code[0]:02X}h/{self.code[1]:02X}h"


@dataclass(frozen=True)
class Reply:
    """What came back for one CDB."""

    cdb: bytes
    status: int
    sense: Sense
    data: bytes
    residual: int
    host: int
    duration_ms: int

    def __str__(self):
        told = f"CDB {self.cdb.hex(' ')}: status {self.status:02X}h"
        if self.host:
            told += f", host status {self.host:02X}h"
        return f"{told}, {self.sense}" if self.sense else told

    def good(self):
        """Asserts GOOD, and gives the data."""
        assert self.status == GOOD and self.host == 0, f"GOOD was expected: {self}"
        return self.data

    def check(self, key, code):
        """Asserts CHECK CONDITION with exactly this sense."""
        assert self.status == CHECK_CONDITION, f"CHECK CONDITION was expected: {self}"
        assert self.sense and (self.sense.key, self.sense.code) == (key, code), (
            f"sense key {key:X}h, {code[0]:02X}h/{code[1]:02X}h was expected: {self}"
        )
        return self.sense

    def conflict(self):
        assert self.status == RESERVATION_CONFLICT, f"RESERVATION CONFLICT was expected: {self}"


def be(value, width):
    return value.to_bytes(width, "big")


def test_unit_ready():
    return bytes(6)


def inquiry(page=None, length=255):
    return bytes([0x12, 0 if page is None else 1, page or 0]) + be(length, 2) + b"\0"


def read_capacity_16(length=32):
    return bytes([0x9E, 0x10]) + bytes(8) + be(length, 4) + bytes(2)


def report_luns(length=4096, select=0):
    return bytes([0xA0, 0, select, 0, 0, 0]) + be(length, 4) + bytes(2)


def read_16(lba, blocks, flags=0):
    return bytes([0x88, flags]) + be(lba, 8) + be(blocks, 4) + bytes(2)


def write_16(lba, blocks, flags=0):
    return bytes([0x8A, flags]) + be(lba, 8) + be(blocks, 4) + bytes(2)


def read_10(lba, blocks, flags=0):
    return bytes([0x28, flags]) + be(lba, 4) + b"\0" + be(blocks, 2) + b"\0"


def write_10(lba, blocks, flags=0):
    return bytes([0x2A, flags]) + be(lba, 4) + b"\0" + be(blocks, 2) + b"\0"


def verify_16(lba, blocks, bytchk=0):
    return bytes([0x8F, bytchk << 1]) + be(lba, 8) + be(blocks, 4) + bytes(2)


def synchronize_cache_16(lba=0, blocks=0):
    return bytes([0x91, 0]) + be(lba, 8) + be(blocks, 4) + bytes(2)


def write_same_16(lba, blocks, unmap=False, no_data=False):
    return bytes([0x93, (unmap << 3) | no_data]) + be(lba, 8) + be(blocks, 4) + bytes(2)


def unmap(length):
    return bytes([0x42]) + bytes(6) + be(length, 2) + b"\0"


def unmap_list(*extents):
    """An UNMAP parameter list of (LBA, blocks)."""
    body = b"".join(be(lba, 8) + be(blocks, 4) + bytes(4) for lba, blocks in extents)
    return be(len(body) + 6, 2) + be(len(body), 2) + bytes(4) + body


def compare_and_write(lba, blocks):
    return bytes([0x89, 0]) + be(lba, 8) + bytes(3) + bytes([blocks]) + bytes(2)


def get_lba_status(lba, length=4096):
    return bytes([0x9E, 0x12]) + be(lba, 8) + be(length, 4) + bytes(2)


def reserve_6():
    return bytes([0x16]) + bytes(5)


def release_6():
    return bytes([0x17]) + bytes(5)
