"""The journal must notice what it is there to notice."""
import unittest

from laboratory.journal import Journal

import journaled_writer


class Written:
    """Stands for the writers: what they have said."""

    def __init__(self, text):
        self._text = text

    def output(self):
        return self._text


def judge(said, *blocks):
    journal = Journal(None, slots=len(blocks), block=4096)
    journal._process = Written(said)
    journal.verify_image(b"".join(blocks))


def block(slot, generation):
    return journaled_writer.pattern(slot, generation, 4096)


EMPTY = bytes(4096)


class WhatTheJournalNotices(unittest.TestCase):
    def test_acknowledged_and_there_is_right(self):
        judge("b 0 1\na 0 1\nb 1 1\na 1 1\nb 1 2\na 1 2\n", block(0, 1), block(1, 2))

    def test_begun_and_not_acknowledged_may_be_there_or_not(self):
        judge("b 0 1\na 0 1\nb 0 2\n", block(0, 1))
        judge("b 0 1\na 0 1\nb 0 2\n", block(0, 2))
        judge("b 0 1\n", EMPTY)

    def test_an_acknowledged_write_that_is_lost_is_noticed(self):
        for said, found in (("b 0 1\na 0 1\n", EMPTY), ("b 0 1\na 0 1\nb 0 2\na 0 2\n", block(0, 1))):
            with self.assertRaisesRegex(AssertionError, "slots are wrong"):
                judge(said, found)

    def test_a_block_of_two_generations_is_torn(self):
        for cut in (512, 2048, 3584):
            with self.assertRaisesRegex(AssertionError, "torn"):
                judge("b 0 1\na 0 1\nb 0 2\n", block(0, 2)[:cut] + block(0, 1)[cut:])

    def test_a_block_in_another_place_is_noticed(self):
        with self.assertRaisesRegex(AssertionError, "torn"):
            judge("b 0 1\na 0 1\nb 1 1\na 1 1\n", block(1, 1), block(1, 1))

    def test_a_generation_that_nobody_wrote_is_noticed(self):
        with self.assertRaisesRegex(AssertionError, "slots are wrong"):
            judge("b 0 1\na 0 1\n", block(0, 7))

    def test_a_line_that_is_not_whole_yet_says_nothing(self):
        judge("b 0 1\nb 0 12", block(0, 1))


    def test_a_flush_repeated_after_a_power_cut_vouches_for_nothing_written_before(self):
        for how, noticed in (("fsync", False), ("dsync", True)):
            journal = Journal(None, slots=2, block=4096, how=how)
            journal._process = Written("b 0 1\na 0 1\nb 1 1\n")
            journal.power_was_cut()
            # The first slot was acknowledged before; the second was answered, lost, and its flush repeated.
            journal._process = Written("b 0 1\na 0 1\nb 1 1\na 1 1\n")
            if noticed:
                with self.assertRaisesRegex(AssertionError, "slot 1"):
                    journal.verify_image(block(0, 1) + EMPTY)
            else:
                journal.verify_image(block(0, 1) + EMPTY)
            with self.assertRaisesRegex(AssertionError, "slot 0"):
                journal.verify_image(EMPTY + block(1, 1))


if __name__ == "__main__":
    unittest.main()
