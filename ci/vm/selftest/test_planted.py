"""The table of mistakes made on purpose: whole, of scenarios that exist, and told as it is."""
import unittest

from laboratory import planted
from laboratory.paths import REPOSITORY
from laboratory.scenario import all_scenarios


class Table(unittest.TestCase):
    def test_names_every_mistake_that_can_be_made(self):
        self.assertEqual(planted.made(), set(planted.CAUGHT) | set(planted.UNSEEN))
        self.assertFalse(set(planted.CAUGHT) & set(planted.UNSEEN))
        self.assertLessEqual(set(planted.QUICK), set(planted.CAUGHT))

    def test_names_scenarios_that_exist(self):
        self.assertLessEqual(set(planted.CAUGHT.values()), set(all_scenarios()))

    def test_is_what_the_documents_tell(self):
        told = (REPOSITORY / "docs" / "laboratory.md").read_text()
        for mistake, scenario in planted.CAUGHT.items():
            self.assertIn(f"| {mistake} | `{scenario}` |", told)
        for mistake, why in planted.UNSEEN.items():
            self.assertIn(f"| {mistake} | {why} |", told)


if __name__ == "__main__":
    unittest.main()
