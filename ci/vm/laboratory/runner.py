"""Runs scenarios, each in namespaces of its own, and keeps what failed ones leave."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from laboratory import build
from laboratory.paths import VM, cache
from laboratory.targets import TARGETS
from laboratory.world import HUNG

# An emulated machine is this much slower.
SLOWER = {"uml": 1, "qemu": 4}


@dataclass
class Outcome:
    """How one scenario ended."""

    name: str
    kind: str
    result: str  # passed, failed, hung, skipped
    seconds: float = 0
    why: str = ""


def isolated(command):
    """`command` as process 1 of its own network, mount, PID and IPC namespaces.

    When it ends, all it started ends; when whoever started it ends, in whatever way, it ends.
    """
    return [
        *("setpriv", "--pdeathsig", "KILL"),
        *("unshare", "--net", "--mount", "--ipc", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
        *command,
    ]


def sweep(runs):
    """Takes away the big files of runs whose runner was killed."""
    for scratch in runs.glob("*.*/scratch"):
        owner = scratch.parent.name.rsplit(".", 1)[1]
        if not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(scratch, ignore_errors=True)


class Runner:
    """What was asked for on the command line."""

    def __init__(self, target, kind=None, seed="1", keep=False, verbose=False, nightly=False):
        self.target, self.kind, self.seed = target, kind, seed
        self.keep, self.verbose, self.nightly = keep, verbose, nightly

    def skip(self, scenario):
        """Why it cannot run, or nothing."""
        if scenario.nightly and not self.nightly:
            return "nightly"
        if self.kind and self.kind not in scenario.kinds:
            return f"not in a {self.kind} guest"
        missing = scenario.needs - TARGETS[self.target].features
        if missing:
            return f"{self.target} has no {', '.join(sorted(missing))}"
        if scenario.name in TARGETS[self.target].deviations:
            return f"{self.target} deviates: {TARGETS[self.target].deviations[scenario.name]}"
        return None

    def run(self, scenario):
        kind = self.kind or scenario.kinds[0]
        why = self.skip(scenario)
        if why:
            return Outcome(scenario.name, kind, "skipped", why=why)
        build.ensure([kind])
        out = cache() / "runs" / f"{scenario.name.replace('/', '.')}.{kind}.{self.target}.{os.getpid()}"
        sweep(out.parent)
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        timeout = scenario.timeout * SLOWER[kind]
        command = [sys.executable, "-m", "laboratory.world", scenario.name, "--kind", kind, "--target", self.target]
        command += ["--seed", self.seed, "--out", str(out), "--timeout", str(timeout)]
        started = time.monotonic()
        with open(out / "output", "wb") as output:
            process = subprocess.Popen(
                isolated(command),
                cwd=VM,
                stdin=subprocess.DEVNULL,
                stdout=None if self.verbose else output,
                stderr=subprocess.STDOUT if not self.verbose else None,
                start_new_session=True,
            )
            try:
                code = process.wait(timeout + 45)
            except subprocess.TimeoutExpired:
                code = HUNG
            except KeyboardInterrupt:
                process.kill()
                process.wait()
                shutil.rmtree(out)
                raise
            finally:
                # (killing `unshare` kills process 1 of the namespace, and so all)
                process.kill()
                process.wait()
                shutil.rmtree(out / "scratch", ignore_errors=True)
        seconds = time.monotonic() - started
        if code == 0:
            if not self.keep:
                shutil.rmtree(out)
            return Outcome(scenario.name, kind, "passed", seconds)
        return Outcome(scenario.name, kind, "hung" if code == HUNG else "failed", seconds, str(out))

    def run_all(self, scenarios):
        """All of them, one after another; prints as it goes, and gives the outcomes."""
        outcomes = []
        for scenario in scenarios:
            if not self.skip(scenario):
                print(f"{scenario.name:36}", end=" ", flush=True)
            else:
                print(f"{scenario.name:36}", end=" ")
            outcome = self.run(scenario)
            outcomes.append(outcome)
            if outcome.result == "skipped":
                print(f"skipped: {outcome.why}", flush=True)
            elif outcome.result == "passed":
                print(f"passed   {outcome.seconds:5.1f} s ({outcome.kind})", flush=True)
            else:
                print(f"{outcome.result.upper():8} {outcome.seconds:5.1f} s ({outcome.kind}); kept in {outcome.why}")
                if not self.verbose:
                    lines = open(f"{outcome.why}/output", errors="replace").read().splitlines()
                    print("\n".join(f"    {line}" for line in lines[-40:]), flush=True)
        counts = {}
        for outcome in outcomes:
            counts[outcome.result] = counts.get(outcome.result, 0) + 1
        total = sum(outcome.seconds for outcome in outcomes)
        print(f"lab: {', '.join(f'{n} {what}' for what, n in sorted(counts.items()))}; {total:.0f} s")
        report = cache() / "runs" / "report.json"
        report.parent.mkdir(exist_ok=True)
        report.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
        return outcomes


def stop_quietly():
    """Ctrl-C and a polite kill end the runner, and with it every namespace."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
