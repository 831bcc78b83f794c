"""Mistakes made on purpose, and the scenario that catches each: a scenario that cannot fail proves nothing.

The target is built once more, with the feature `planted`; SPINDLE_PLANTED names the mistake it makes.
"""
import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

from laboratory.paths import REPOSITORY
from laboratory.runner import Runner
from laboratory.scenario import all_scenarios

VARIABLE = "SPINDLE_PLANTED"
BUILD = REPOSITORY / "target" / "planted"

CAUGHT = {
    "early-tmf-answer": "error_handler/lun_reset",
    "tmf-overtakes": "error_handler/abort_task",
    "lost-wake-up": "gates/writes_wait_for_compare",
    "late-write": "gates/aborted_while_it_waits",
    "gate-closed-early": "gates/compare_waits_for_writes",
    "stale-data": "medium/failed_reads",
    "write-error-hidden": "medium/failed_writes",
    "pool-forgotten": "memory/pool_smaller_than_the_load",
    "reader-stops": "memory/pool_empty_while_the_disk_stalls",
    "flush-skipped": "power/flushes_alone",
    "fua-forgotten": "power/fua_alone",
    "ahead-unseen": "luns/removed_while_it_works",
    "double-put": "fio_verify/mixed",
}

# What no real initiator sees, with the reason. Each of them is found by the simulation or by tests of its crate.
UNSEEN = {
    "shrunk-early": "a late write beyond the end of a file leaves nothing that an initiator can read",
    "flush-behind-skipped": "GOOD for a flush with IMMED promises nothing, so nobody can miss it",
    "order-ignored": "Linux marks every command SIMPLE; none of its initiators sends ORDERED",
    "status-after-abort": "the transport has forgotten the task by then and has no number to send a status with",
    "reservation-published-late": "the news lies in the other core's mailbox before the answer leaves: the gap is shorter "
    "than any path through two initiators",
    "attentions-left-behind": "no scenario moves a session that has something to be told: `ci/e2e/moves.py` does",
    "stale-ttt": "an initiator that keeps to the standard never uses a tag of a transfer that has ended",
}

# Caught in a few seconds: by default these.
QUICK = ("stale-data", "write-error-hidden", "gate-closed-early")


def built():
    """The program that can make mistakes."""
    words = ["cargo", "build", "--release", "--quiet", "-p", "spindle", "--features", "planted", "--target-dir", BUILD]
    subprocess.run(words, cwd=REPOSITORY, check=True)
    return BUILD / "release" / "spindle"


def made():
    """The names of all mistakes, as the crates that could make them list them (`spindle_reactor::planted_bugs`)."""
    lists = [path for depth in ("*", "*/*") for path in REPOSITORY.glob(f"{depth}/src/planted.rs")]
    names = [name for path in lists for name in re.findall(r'^ +\w+ = "([a-z-]+)",$', path.read_text(), re.MULTILINE)]
    assert len(names) == len(set(names)) > 10, f"the lists of mistakes cannot be read: {names}"
    return set(names)


def run(names, seed):
    """Every scenario passes without its mistake and fails with it."""
    program = built()
    there, listed = made(), set(CAUGHT) | set(UNSEEN)
    assert there == listed, f"not in the table: {sorted(there - listed)}; no longer made: {sorted(listed - there)}"
    scenarios = all_scenarios()

    def judge(mistake, name):
        """One line, and whether it was right."""
        planted = {VARIABLE: mistake} if mistake else {}
        runner = Runner("spindle", seed=seed, environment={"SPINDLE_BINARY": str(program), **planted})
        outcome = runner.run(scenarios[name], scenarios[name].kinds[0])
        if mistake:
            right = outcome.result in ("failed", "hung")
            told = "caught" if right else "MISSED"
        else:
            right, told = outcome.result == "passed", outcome.result
        print(f"{mistake or '(no mistake)':28} {name:42} {told:8} {outcome.seconds:5.1f} s", flush=True)
        if right and mistake:
            shutil.rmtree(outcome.why)
        return right

    with ThreadPoolExecutor(os.cpu_count()) as workers:
        clean = [(None, name) for name in dict.fromkeys(CAUGHT[name] for name in names)]
        rights = list(workers.map(judge, *zip(*clean, *((name, CAUGHT[name]) for name in names))))
    print(f"RESULT: {len(names)} mistakes made on purpose; {rights.count(False)} of {len(rights)} runs ended otherwise than they should")
    return 0 if all(rights) else 1
