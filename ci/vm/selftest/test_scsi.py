"""Sense data and CDBs."""
import unittest

from laboratory import scsi


class SenseData(unittest.TestCase):
    def test_fixed_format(self):
        raw = bytes.fromhex("f0000e0000012c0a000000001d0000000000")
        sense = scsi.Sense.parse(raw)
        self.assertEqual((sense.key, sense.code, sense.information), (scsi.MISCOMPARE, (0x1D, 0x00), 300))

    def test_fixed_format_without_valid_information(self):
        self.assertIsNone(scsi.Sense.parse(bytes.fromhex("70000500000000")).information)

    def test_descriptor_format(self):
        raw = bytes.fromhex("7205240000000014" "02060000c0000200" "000a80000000000000000011")
        sense = scsi.Sense.parse(raw)
        self.assertEqual((sense.key, sense.code, sense.information), (5, (0x24, 0x00), 0x11))

    def test_none(self):
        self.assertIsNone(scsi.Sense.parse(b""))

    def test_assertions_are_exact(self):
        reply = scsi.Reply(b"\x00", scsi.CHECK_CONDITION, scsi.Sense.parse(bytes.fromhex("72052400")), b"", 0, 0, 1)
        reply.check(scsi.ILLEGAL_REQUEST, scsi.INVALID_FIELD_IN_CDB)
        for wrong in ((scsi.ILLEGAL_REQUEST, scsi.LBA_OUT_OF_RANGE), (scsi.ABORTED_COMMAND, (0x24, 0x00))):
            with self.assertRaises(AssertionError):
                reply.check(*wrong)
        with self.assertRaises(AssertionError):
            reply.good()
        with self.assertRaises(AssertionError):
            reply.conflict()

    def test_cdb_lengths(self):
        for length, cdbs in {
            6: [scsi.test_unit_ready(), scsi.inquiry(), scsi.reserve_6(), scsi.release_6()],
            10: [scsi.read_10(1, 2), scsi.write_10(1, 2), scsi.unmap(8)],
            12: [scsi.report_luns()],
            16: [scsi.read_16(1, 2), scsi.write_16(1, 2), scsi.verify_16(1, 2), scsi.write_same_16(1, 2),
                 scsi.compare_and_write(1, 1), scsi.get_lba_status(1), scsi.read_capacity_16(),
                 scsi.synchronize_cache_16()],
        }.items():  # fmt: skip
            for cdb in cdbs:
                self.assertEqual(len(cdb), length, cdb.hex(" "))


if __name__ == "__main__":
    unittest.main()
