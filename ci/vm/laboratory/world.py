"""One scenario, inside namespaces of its own: the runner starts this module, and the namespaces go with it.

    python3 -m laboratory.world NAME --kind KIND --target TARGET --seed SEED --out FOLDER --timeout SECONDS
"""
import argparse
import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path

from laboratory import steps
from laboratory.guest import KINDS, Reception
from laboratory.lab import Lab
from laboratory.machine import Host
from laboratory.network import Network
from laboratory.paths import VM
from laboratory.scenario import all_scenarios
from laboratory.targets import TARGETS

FAILED, HUNG = 1, 3


class World:
    """Network, machines and target, made from the scenario's declaration."""

    def __init__(self, scenario, kind, target, seed, out):
        self.scenario, self.topology = scenario, scenario.topology
        self.seed, self.out = seed, out
        self.cpus, self.memory_mib = scenario.cpus, scenario.memory_mib
        # The namespace has a /run and a /dev/shm of its own: sockets, memory and scratch files, gone with it.
        for folder in ("/run", "/dev/shm"):
            subprocess.run(["mount", "-t", "tmpfs", "lab", folder], check=True)
        self.work = Path("/run/lab")
        self.work.mkdir()
        Path("/run/tgtd").mkdir()
        self.scratch = out / "scratch"
        self.scratch.mkdir()
        self.network = Network(self.topology, seed, out)
        self.network.capture()
        self.reception = Reception()
        self.host = Host()
        place = self.topology.target
        self.guests = []
        for index, name in enumerate(self.topology.machines()):
            is_target = name == "target" or (place == "same" and index == 0)
            first = 1 if place != "host" else 2
            self.guests.append(KINDS[kind](name, index, 1 if is_target else index + first, self))
        self.initiator_guests = [guest for guest in self.guests if guest.name != "target"]
        self.server = self.host if place == "host" else self.guests[0]
        scratch = self.scratch if place == "host" else "/dev/shm"
        self.target = TARGETS[target](self.server, out / "target.log", scratch)

    def boot(self):
        for guest in self.guests:
            guest.boot()
        for guest in self.guests:
            guest.ready()

    def diagnose(self):
        """What one would ask first, asked of every guest that still answers."""
        question = (
            "iscsiadm -m session -P 3; lsscsi -g; multipath -ll 2> /dev/null; ip -s link; ss -tnp; "
            "ps axo pid,stat,wchan:25,args | grep -v '\\]$'; dmesg | tail -n 150"
        )
        for guest in filter(lambda guest: guest.running, self.guests):
            try:
                result = guest.start(question, quiet=True).wait(10, expect=None)
                (self.out / f"{guest}.diagnosis").write_text(result.out + result.err)
            except (OSError, AssertionError) as error:
                (self.out / f"{guest}.diagnosis").write_text(f"no answer: {error}\n")

    def show_blocked_tasks(self):
        """The stacks of what waits in the kernel, onto the console."""
        for guest in self.guests:
            try:
                guest.start("echo w > /proc/sysrq-trigger").wait(3, expect=None)
            except (OSError, AssertionError):
                pass


def watch(world, timeout):
    """Ends a scenario that hangs, and says where it was."""
    time.sleep(timeout)
    steps.note(f"NOT ENDED after {timeout:.0f} s. {steps.last()}")
    stack = traceback.extract_stack(sys._current_frames()[threading.main_thread().ident])
    here = [frame for frame in stack if str(VM) in frame.filename]
    print("".join(traceback.format_list(here)), end="", flush=True)
    world.show_blocked_tasks()
    world.diagnose()
    os._exit(HUNG)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("name")
    for option in ("--kind", "--target", "--seed", "--out"):
        p.add_argument(option, required=True)
    p.add_argument("--timeout", type=float, required=True)
    options = p.parse_args()
    scenario = all_scenarios()[options.name]
    world = World(scenario, options.kind, options.target, options.seed, Path(options.out))
    threading.Thread(target=watch, args=(world, options.timeout), daemon=True).start()
    steps.step(f"{scenario.name}: {options.kind} guest, target {options.target}, seed {options.seed}")
    try:
        world.boot()
        booted = time.monotonic()
        lab = Lab(world)
        scenario.run(lab)
        world.target.assert_alive()
        lab.no_task_is_left()
        steps.step(f"passed ({time.monotonic() - booted:.1f} s after boot)")
        code = 0
    except BaseException:
        steps.note(f"FAILED. {steps.last()}")
        traceback.print_exc(file=sys.stdout)
        sys.stdout.flush()
        world.diagnose()
        code = FAILED
    # Process 1 of the namespace: all that was started ends with it.
    os._exit(code)


if __name__ == "__main__":
    main()
