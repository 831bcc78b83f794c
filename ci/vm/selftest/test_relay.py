"""The relay's decisions: by seed, in order unless it reorders, no frame twice."""
import unittest

from laboratory.relay import QUEUE_MAX, Impairment, Line, obey


def passed(how, seed="1", count=1000, every=0.001):
    """Frames 0..count through a line; what came out, in its order."""
    line = Line("in", seed)
    line.how = Impairment(**how)
    out = []
    for number in range(count):
        line.take(number, number * every)
        out += line.give(number * every)
    return out + list(line.give(1e9)), line.counters


class Relay(unittest.TestCase):
    def test_a_clean_link_passes_all_in_order(self):
        self.assertEqual(passed({})[0], list(range(1000)))

    def test_a_seed_decides_everything(self):
        how = dict(loss=0.1, reorder=0.1, hold_ms=7, delay_ms=3, jitter_ms=9)
        self.assertEqual(passed(how), passed(how))
        self.assertNotEqual(passed(how)[0], passed(how, seed="2")[0])

    def test_loss_loses_about_its_share_and_counts_it(self):
        out, counters = passed(dict(loss=0.2))
        self.assertEqual(len(out) + counters["lost"], 1000)
        self.assertTrue(140 < counters["lost"] < 260, counters)
        self.assertEqual(out, sorted(out))

    def test_jitter_keeps_the_order(self):
        self.assertEqual(passed(dict(delay_ms=5, jitter_ms=20))[0], list(range(1000)))

    def test_reordering_holds_frames_back_and_loses_none(self):
        out, counters = passed(dict(reorder=0.1, hold_ms=5))
        self.assertNotEqual(out, sorted(out))
        self.assertEqual(sorted(out), list(range(1000)))
        self.assertTrue(counters["reordered"] > 50, counters)

    def test_delay_holds_a_frame_for_its_time(self):
        line = Line("out", "1")
        line.how = Impairment(delay_ms=20)
        line.take("frame", 1.0)
        self.assertEqual(list(line.give(1.019)), [])
        self.assertEqual(list(line.give(1.021)), ["frame"])

    def test_the_other_direction_stays_clean(self):
        line = Line("out", "1")
        line.how = Impairment(loss=1, direction="in")
        line.take("frame", 0)
        self.assertEqual(list(line.give(0)), ["frame"])

    def test_the_queue_is_bounded(self):
        out, counters = passed(dict(delay_ms=1e6), count=QUEUE_MAX + 10)
        self.assertEqual(counters["overflowed"], 10)
        self.assertEqual(len(out), QUEUE_MAX)

    def test_a_wrong_wish_is_refused_and_changes_nothing(self):
        line = Line("in", "1")
        for wish in ('{"loss": 2}', '{"los": 0.5}', '{"direction": "up"}', "nonsense"):
            self.assertIn("error", obey(wish, [line]))
        self.assertEqual(line.how, Impairment())


if __name__ == "__main__":
    unittest.main()
