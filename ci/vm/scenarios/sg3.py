"""sg3_utils over every command: output asserted, bad arguments included."""
import re

from laboratory import scenario, scsi

# Exit codes of sg3_utils.
ILLEGAL = 5
LBA_OUT_OF_RANGE = 22


def told(disk, *words, expect=0):
    """Runs a tool on the disk; its output in one string."""
    result = disk.machine.run(*words, disk.path, expect=expect)
    return result.out + result.err


def number(pattern, text):
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in: {text}"
    return int(found[1], 0)


def names_of_logical_unit(page):
    """World-wide designators of the logical unit in a Device Identification page."""
    names, at = [], 4
    while at + 4 <= len(page):
        association, kind, length = page[at + 1] >> 4 & 3, page[at + 1] & 0x0F, page[at + 3]
        if association == 0 and kind in (2, 3, 8, 10):
            names.append(page[at + 4 : at + 4 + length])
        at += 4 + length
    assert at == len(page), f"designators end at {at}, the page at {len(page)}"
    return names


@scenario()
def describes_itself(lab):
    """sg_inq, sg_vpd, sg_readcap, sg_luns, sg_turs, sg_requests: who it is and how big, told consistently."""
    disk = lab.disk(64)
    disk.clear_unit_attentions()
    text = told(disk, "sg_inq")
    assert "Peripheral device type: disk" in text and "PQual=0" in text, text
    pages = told(disk, "sg_vpd", "-l")
    assert "Supported VPD pages" in pages and "Device identification" in pages, pages
    listed = disk.vpd(0x00)[4:]
    assert list(listed) == sorted(listed) and 0x00 in listed and 0x83 in listed, listed.hex(" ")
    for page in listed:
        body = disk.vpd(page, 4096)
        assert body[1] == page and len(body) == 4 + int.from_bytes(body[2:4], "big"), f"page {page:02X}h: {body.hex()}"
        # cut off by the allocation length, not padded and not refused (SPC-5 §4.2.5.6)
        assert disk.vpd(page, 8)[:8] == body[:8]
    # a page that is not listed
    absent = next(page for page in range(0xC0, 0x100) if page not in listed)
    disk.scsi(scsi.inquiry(absent), data_in=255).check(scsi.ILLEGAL_REQUEST, scsi.INVALID_FIELD_IN_CDB)
    # EVPD 0 with a page code
    disk.scsi(bytes([0x12, 0, 0x83, 0, 255, 0]), data_in=255).check(scsi.ILLEGAL_REQUEST, scsi.INVALID_FIELD_IN_CDB)
    assert "Addressed logical unit" in told(disk, "sg_vpd", "-p", "di")
    assert names_of_logical_unit(disk.vpd(0x83, 4096)), "a designator of NAA, EUI-64 or UUID form names the unit"
    for words in (["sg_readcap"], ["sg_readcap", "--16"]):
        text = told(disk, *words)
        assert number(r"Number of logical blocks=(\d+)", text) == 64 << 11, text
        assert number(r"Logical block length=(\d+)", text) == 512, text
    text = told(disk, "sg_luns")
    assert re.search(r"^\s+0001000000000000$", text, re.MULTILINE), text
    told(disk, "sg_turs", "-n", "5")
    text = told(disk, "sg_requests")
    assert "No Sense" in text or "no sense" in text or not text.strip(), text


@scenario()
def unknown_commands(lab):
    """A vendor's opcode, a reserved one and a bad service action: INVALID COMMAND OPERATION CODE, INVALID FIELD IN CDB."""
    disk = lab.disk(16)
    disk.clear_unit_attentions()
    for opcode, length in ((0xC1, 10), (0x02, 6), (0x7D, 16)):
        disk.scsi(bytes([opcode]) + bytes(length - 1)).check(
            scsi.ILLEGAL_REQUEST, scsi.INVALID_COMMAND_OPERATION_CODE
        )
    bad = disk.scsi(bytes([0x9E, 0x1F]) + bytes(14), data_in=32)
    assert bad.sense and bad.sense.key == scsi.ILLEGAL_REQUEST, bad
    assert bad.sense.code in (scsi.INVALID_FIELD_IN_CDB, scsi.INVALID_COMMAND_OPERATION_CODE), bad


@scenario()
def ranges(lab):
    """READ and WRITE at the end, past it, and of nothing: 6, 10, 12 and 16 bytes."""
    disk = lab.disk(16)
    disk.clear_unit_attentions()
    blocks = 16 << 11
    disk.scsi(scsi.write_16(blocks - 1, 1), data_out=b"\x42" * 512).good()
    assert disk.scsi(scsi.read_16(blocks - 1, 1), data_in=512).good() == b"\x42" * 512
    assert disk.scsi(scsi.read_10(blocks - 1, 1), data_in=512).good() == b"\x42" * 512
    for cdb in (scsi.read_16(blocks, 1), scsi.read_16(blocks - 1, 2), scsi.read_16((1 << 64) - 1, 1),
                scsi.read_10(blocks, 1), scsi.read_10(0xFFFFFFFF, 1)):  # fmt: skip
        disk.scsi(cdb, data_in=1024).check(scsi.ILLEGAL_REQUEST, scsi.LBA_OUT_OF_RANGE)
    for cdb in (scsi.write_16(blocks, 1), scsi.write_16(blocks - 1, 2)):
        disk.scsi(cdb, data_out=bytes(512 * cdb[13])).check(scsi.ILLEGAL_REQUEST, scsi.LBA_OUT_OF_RANGE)
    # no block is no error, at the very end neither (SBC-4 §5.18: LBA plus length exceeds the capacity)
    disk.scsi(scsi.read_16(0, 0)).good()
    disk.scsi(scsi.write_16(blocks - 1, 0)).good()
    # what was past the end has not been written before it
    assert disk.scsi(scsi.read_16(blocks - 1, 1), data_in=512).good() == b"\x42" * 512


@scenario()
def mode_pages(lab):
    """sg_modes and sg_wr_mode: caching and control pages, current and changeable; what may not change is refused."""
    disk = lab.disk(16)
    disk.clear_unit_attentions()
    text = told(disk, "sg_modes", "-a")
    assert "Caching" in text and "Control" in text, text
    for page in ("0x08", "0x0a"):
        for control in ("0", "1", "2"):
            told(disk, "sg_modes", f"--page={page}", f"--control={control}")
    told(disk, "sg_modes", "--page=0x30", expect=ILLEGAL)


@scenario(needs={"sync", "verify"})
def sync_and_verify(lab):
    """sg_sync, sg_verify: whole disk, parts, past the end; bytes compared and a difference found."""
    disk = lab.disk(16)
    disk.clear_unit_attentions()
    blocks = 16 << 11
    told(disk, "sg_sync")
    told(disk, "sg_sync", "--lba=100", "--count=8")
    told(disk, "sg_verify", "--lba=0", "--count=64")
    told(disk, "sg_verify", f"--lba={blocks - 1}", "--count=2", expect=LBA_OUT_OF_RANGE)
    told(disk, "sg_verify", "--16", "--lba=0", "--count=64")
    disk.scsi(scsi.write_16(8, 2), data_out=b"\x31" * 1024).good()
    disk.scsi(scsi.verify_16(8, 2, bytchk=1), data_out=b"\x31" * 1024).good()
    wrong = bytearray(b"\x31" * 1024)
    wrong[700] = 0
    disk.scsi(scsi.verify_16(8, 2, bytchk=1), data_out=bytes(wrong)).check(
        scsi.MISCOMPARE, scsi.MISCOMPARE_DURING_VERIFY
    )


@scenario(needs={"write-same"})
def write_same(lab):
    """sg_write_same: a pattern over many blocks, the neighbours untouched, past the end refused."""
    disk = lab.disk(16)
    disk.clear_unit_attentions()
    disk.scsi(scsi.write_16(0, 32), data_out=b"\x11" * (32 * 512)).good()
    disk.scsi(scsi.write_same_16(4, 8), data_out=b"\x22" * 512).good()
    data = disk.scsi(scsi.read_16(0, 32), data_in=32 * 512).good()
    assert data == b"\x11" * (4 * 512) + b"\x22" * (8 * 512) + b"\x11" * (20 * 512)
    disk.scsi(scsi.write_same_16((16 << 11) - 1, 2), data_out=bytes(512)).check(
        scsi.ILLEGAL_REQUEST, scsi.LBA_OUT_OF_RANGE
    )
    told(disk, "sg_write_same", "--16", "--lba=64", "--num=32", "--in=/dev/zero", "--xferlen=512")


@scenario(needs={"unmap"})
def unmap(lab):
    """sg_unmap, sg_get_lba_status: blocks unmapped read as zeros, several extents, past the end refused."""
    disk = lab.disk(16, kind="file")
    disk.clear_unit_attentions()
    provisioning = disk.vpd(0xB2)
    assert provisioning[5] & 0x80, "LBPU is set"
    disk.scsi(scsi.write_16(0, 256), data_out=b"\x55" * (256 * 512)).good()
    told(disk, "sg_unmap", "--lba=0", "--num=64")
    extents = scsi.unmap_list((128, 64), (200, 8))
    disk.scsi(scsi.unmap(len(extents)), data_out=extents).good()
    data = disk.scsi(scsi.read_16(0, 256), data_in=256 * 512).good()
    for block in range(256):
        gone = block < 64 or 128 <= block < 192 or 200 <= block < 208
        wanted = bytes(512) if gone else b"\x55" * 512
        assert data[block * 512 : (block + 1) * 512] == wanted, f"block {block}"
    past = scsi.unmap_list((16 << 11, 1))
    disk.scsi(scsi.unmap(len(past)), data_out=past).check(scsi.ILLEGAL_REQUEST, scsi.LBA_OUT_OF_RANGE)
    disk.scsi(scsi.unmap(0)).good()
    status = disk.scsi(scsi.get_lba_status(0), data_in=4096).good()
    assert len(status) >= 24, status.hex()


@scenario(needs={"compare-and-write"})
def compare_and_write(lab):
    """sg_compare_and_write: writes when equal; when not, MISCOMPARE with the offset, and nothing is written."""
    disk = lab.disk(16)
    disk.clear_unit_attentions()
    disk.scsi(scsi.write_16(10, 2), data_out=b"\x01" * 1024).good()
    disk.scsi(scsi.compare_and_write(10, 1), data_out=b"\x01" * 512 + b"\x02" * 512).good()
    assert disk.scsi(scsi.read_16(10, 2), data_in=1024).good() == b"\x02" * 512 + b"\x01" * 512
    expected = bytearray(b"\x02" * 512)
    expected[300] = 0xFF
    sense = disk.scsi(scsi.compare_and_write(10, 1), data_out=bytes(expected) + b"\x03" * 512).check(
        scsi.MISCOMPARE, scsi.MISCOMPARE_DURING_VERIFY
    )
    assert sense.information == 300, f"the difference is at 300, {sense.information} was told"
    assert disk.scsi(scsi.read_16(10, 1), data_in=512).good() == b"\x02" * 512
    most = disk.vpd(0xB0)[5]
    assert most >= 1, "Block Limits says how many blocks are compared at most"
    if most < 255:
        disk.scsi(scsi.compare_and_write(0, most + 1), data_out=bytes(1024 * (most + 1))).check(
            scsi.ILLEGAL_REQUEST, scsi.INVALID_FIELD_IN_CDB
        )


@scenario(needs={"report-opcodes"})
def opcodes(lab):
    """sg_opcodes: every command that is claimed is listed with a usage map that begins with its opcode."""
    disk = lab.disk(16)
    disk.clear_unit_attentions()
    text = told(disk, "sg_opcodes")
    listed = {int(code, 16) for code in re.findall(r"^\s*([0-9a-f]{2})\s", text, re.MULTILINE)}
    for opcode in (0x00, 0x12, 0x25, 0x28, 0x2A, 0x88, 0x8A, 0x9E, 0xA0, 0xA3):
        assert opcode in listed, f"{opcode:02X}h is not listed: {text}"
    for opcode in sorted(listed & {0x00, 0x12, 0x28, 0x2A, 0x88, 0x8A}):
        cdb = bytes([0xA3, 0x0C, 0x01, opcode, 0, 0, 0, 0, 1, 0, 0, 0])
        data = disk.scsi(cdb, data_in=256).good()
        assert data[1] & 7 == 3 and data[4] == opcode, f"{opcode:02X}h: {data.hex(' ')}"


@scenario()
def start_stop(lab):
    """sg_start: stop and start, and the disk works afterwards."""
    disk = lab.disk(16)
    disk.clear_unit_attentions()
    told(disk, "sg_start", "--start")
    disk.write(0, b"\x01" * 4096)
    assert disk.read(0, 4096) == b"\x01" * 4096


@scenario(needs={"reset"})
def resets(lab):
    """sg_reset: device and target; I/O goes on, and the unit attention is the one of a reset."""
    disk = lab.disk(16)
    disk.clear_unit_attentions()
    for scope in ("--device", "--target"):
        told(disk, "sg_reset", scope)
        codes = disk.clear_unit_attentions()
        assert all(code == 0x29 for code, _ in codes), codes
        disk.write(0, b"\x01" * 4096)
        assert disk.read(0, 4096) == b"\x01" * 4096
