"""Runs scenarios, each in namespaces of its own, and keeps what failed ones leave."""
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass

from laboratory import build
from laboratory.machine import PATIENCE
from laboratory.paths import VM, cache
from laboratory.targets import TARGETS
from laboratory.world import HUNG

RESULTS = ("passed", "failed", "hung", "skipped")

# An emulated machine is this much slower.
SLOWER = {"uml": 1, "qemu": 4}


@dataclass
class Outcome:
    """How one scenario ended."""

    name: str
    kind: str
    result: str  # one of RESULTS
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
    runs.mkdir(exist_ok=True)
    for scratch in runs.glob("*.*/scratch"):
        owner = scratch.parent.name.rsplit(".", 1)[1]
        if not os.path.exists(f"/proc/{owner}"):
            shutil.rmtree(scratch, ignore_errors=True)


class Runner:
    """What was asked for on the command line."""

    def __init__(self, target, kind=None, seed="1", keep=False, verbose=False, nightly=False, environment=()):
        self.target, self.kind, self.seed = target, kind, seed
        self.keep, self.verbose, self.nightly = keep, verbose, nightly
        self.environment = dict(environment)  # more of it, for the target
        self._running, self._interrupted = set(), False

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

    def kinds(self, scenario):
        """The kinds of guest it is to be run in."""
        if self.kind:
            return (self.kind,)
        return scenario.kinds if scenario.every_kind else scenario.kinds[:1]

    def run(self, scenario, kind):
        why = self.skip(scenario)
        if why:
            return Outcome(scenario.name, kind, "skipped", why=why)
        out = cache() / "runs" / f"{scenario.name.replace('/', '.')}.{kind}.{self.target}.{os.getpid()}"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        timeout = scenario.timeout * SLOWER[kind] * PATIENCE
        command = [sys.executable, "-m", "laboratory.world", scenario.name, "--kind", kind, "--target", self.target]
        command += ["--seed", self.seed, "--out", str(out), "--timeout", str(timeout)]
        started = time.monotonic()
        with open(out / "output", "wb") as output:
            process = subprocess.Popen(
                isolated(command),
                cwd=VM,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=None if self.verbose else output,
                stderr=None if self.verbose else subprocess.STDOUT,
                start_new_session=True,
            )
            self._running.add(process)
            try:
                code = process.wait(timeout + 45)
            except subprocess.TimeoutExpired:
                code = HUNG
            end(process)
            self._running.discard(process)
        shutil.rmtree(out / "scratch", ignore_errors=True)
        seconds = time.monotonic() - started
        if code == 0 and not self.keep or self._interrupted:
            shutil.rmtree(out)
        if code == 0:
            return Outcome(scenario.name, kind, "passed", seconds)
        return Outcome(scenario.name, kind, "hung" if code == HUNG else "failed", seconds, str(out))

    def run_all(self, scenarios, jobs=1):
        """All of them, `jobs` at a time; prints each as it ends, and gives the outcomes."""
        sweep(cache() / "runs")
        kinds = {kind for scenario in scenarios if not self.skip(scenario) for kind in self.kinds(scenario)}
        build.ensure(sorted(kinds))
        started = time.monotonic()
        outcomes = []
        with ThreadPoolExecutor(jobs) as workers:
            # (the long ones first, so that none is left alone at the end)
            runs = [(scenario, kind) for scenario in scenarios for kind in self.kinds(scenario)]
            runs.sort(key=lambda run: -run[0].timeout * SLOWER[run[1]])
            waiting = [workers.submit(self.run, *run) for run in runs]
            try:
                for future in as_completed(waiting):
                    outcomes.append(future.result())
                    self._tell(outcomes[-1])
            except KeyboardInterrupt:
                self._interrupted = True
                workers.shutdown(wait=False, cancel_futures=True)
                for process in list(self._running):
                    end(process)
                raise
        counts = {result: sum(outcome.result == result for outcome in outcomes) for result in RESULTS}
        told = ", ".join(f"{count} {result}" for result, count in counts.items() if count)
        print(f"RESULT: {told} in {time.monotonic() - started:.0f} s")
        report = cache() / "runs" / "report.json"
        report.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1) + "\n")
        return outcomes

    def _tell(self, outcome):
        line = f"{outcome.name:40} {outcome.result:8}"
        if outcome.result == "skipped":
            print(f"{line} {outcome.why}", flush=True)
            return
        line += f" {outcome.seconds:5.1f} s  {outcome.kind}"
        if outcome.result == "passed":
            print(line, flush=True)
            return
        print(f"{line}; kept in {outcome.why}")
        lines = open(f"{outcome.why}/output", errors="replace").read().splitlines()
        print("\n".join(f"    {line}" for line in lines[-40:]), flush=True)


def end(process):
    """Ends `unshare`, and so process 1 of its namespace, and so all that is in it."""
    process.kill()
    process.wait()


def stop_quietly():
    """Ctrl-C and a polite kill end the runner, and with it every namespace."""
    signal.signal(signal.SIGTERM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
