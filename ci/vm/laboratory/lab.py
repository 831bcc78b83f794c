"""The world a scenario is given."""
import random

from laboratory.initiator import Initiator
from laboratory.machine import eventually
from laboratory.network import address
from laboratory.steps import step
from laboratory.volatile_disk import VolatileDisk

IQN = "iqn.2026-01.io.spindle.lab"


class Lab:
    """Machines, network and target of one scenario."""

    def __init__(self, world):
        self._world = world
        self.host, self.target, self.seed = world.host, world.target, world.seed
        self.server = world.server
        self.guests = world.initiator_guests
        self.out = world.out  # kept when it fails: logs of what the scenario starts
        self.scratch = world.scratch  # files of the host that may be big; gone afterwards
        self.random = random.Random(world.seed)
        self._initiators = {}

    step = staticmethod(step)
    wait = staticmethod(eventually)

    @property
    def guest(self):
        return self.guests[0]

    def no_task_is_left(self):
        """Asserts that the target holds no task once nobody works, if it can tell."""
        if "tasks" in self.target.features and self.server.running:
            eventually(lambda: not self.target.tasks(), f"no task is left in the target: {self.target.tasks()}", 10)

    def volatile_disk(self, mib):
        """A disk whose unflushed writes a power cut may lose."""
        return VolatileDisk(mib, self.seed)

    def portal(self, segment=0, ipv6=False, port=3260):
        """The target's portal on a segment."""
        host = address(segment, 1, ipv6)
        return f"[{host}]:{port}" if ipv6 else f"{host}:{port}"

    def portals(self, ipv6=False):
        return [self.portal(segment, ipv6) for segment in range(self._world.topology.segments)]

    def port(self, guest=0, segment=0):
        """Where a guest meets a segment: cut it, restore it, impair it."""
        return self._world.network.ports[self.guests[guest].name, segment]

    def initiator(self, guest=0, **settings):
        """open-iscsi on a guest, started at the first call."""
        if guest not in self._initiators:
            machine = self.guests[guest]
            log = self._world.out / f"{machine}.iscsid.log"
            self._initiators[guest] = Initiator(machine, f"{IQN}:initiator{guest}", log, **settings)
        return self._initiators[guest]

    def iqn(self, name="disk"):
        return f"{IQN}:{name}"

    def serve(self, mib=64, kind="ram", name="disk", **node):
        """Starts the target with one disk as LUN 1 of one target node. Gives the node's name."""
        step(f"a target with a {kind} disk of {mib} MiB")
        self.target.start(self.portals())
        self.target.create_disk(name, mib, kind)
        self.target.create_node(self.iqn(), luns={1: name}, **node)
        return self.iqn()

    def disk(self, mib=64, kind="ram", login=None, **node):
        """The usual beginning: a target with one disk, one login, the disk as its initiator sees it."""
        iqn = self.serve(mib, kind, **node)
        session = self.initiator().login(iqn, self.portal(), **(login or {}))
        return session.disk(1)
