"""What a scenario is: a function with a declaration of the world it wants."""
import importlib
import sys
from dataclasses import dataclass

from laboratory.paths import SCENARIOS


@dataclass(frozen=True)
class Topology:
    """Machines and the network between them.

    The target runs on the host or in a guest of its own; every guest has one port on each segment, and the target's
    machine has address .1 on each. `impaired` puts a relay before each port of an initiator: its delay, loss and order
    can then be changed while the scenario runs (any port can be cut and restored).
    """

    guests: int = 1
    segments: int = 1
    target: str = "host"  # or "guest" (one more machine), or "same" (in the first initiator's guest)
    impaired: bool = False
    mtu: int = 1500

    def machines(self):
        return (["target"] if self.target == "guest" else []) + [f"guest{n}" for n in range(self.guests)]


@dataclass(frozen=True)
class Scenario:
    name: str
    run: object
    topology: Topology
    needs: frozenset
    kinds: tuple
    timeout: float
    nightly: bool
    every_kind: bool
    cpus: int
    memory_mib: int

    @property
    def about(self):
        return (self.run.__doc__ or "").strip().splitlines()[0] if self.run.__doc__ else ""


_registry = {}


def scenario(
    needs=(), topology=Topology(), kinds=("uml", "qemu"), timeout=60, nightly=False, every_kind=False, cpus=2,
    memory_mib=512
):  # fmt: skip
    """Declares a scenario.

    needs     features of the target; one it has not makes the scenario skipped, which is printed and counted
    kinds     the guests it can run in; the first is the one taken when none is asked for
    timeout   seconds after which it is ended, and says where it was (QEMU guests get four times as much)
    nightly   not run without --nightly
    every_kind  run once in each of its kinds of guest, not in the first alone
    cpus      of a QEMU guest
    """

    def declare(function):
        name = f"{function.__module__.rsplit('.', 1)[-1]}/{function.__name__}"
        _registry[name] = Scenario(
            name, function, topology, frozenset(needs), tuple(kinds), timeout, nightly, every_kind, cpus, memory_mib
        )
        return function

    return declare


def all_scenarios():
    """Every scenario of the folder, by name."""
    sys.path.insert(0, str(SCENARIOS.parent))
    for path in sorted(SCENARIOS.glob("[a-z]*.py")):
        importlib.import_module(f"scenarios.{path.stem}")
    return dict(_registry)
