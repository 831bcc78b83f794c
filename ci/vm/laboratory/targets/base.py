"""What a scenario may ask of a target, whoever it is.

The configuration calls (`create_disk`, `create_node`, ...) are remembered, so that a target that was killed comes back
as it was: `restart` starts it and makes the same calls again. Disks of kind "file" keep their data, others do not.
"""
import functools
import signal

from laboratory.machine import eventually
from laboratory.steps import step


def remembered(method):
    """A configuration call that `restart` repeats."""

    @functools.wraps(method)
    def call(self, *arguments, **options):
        answer = method(self, *arguments, **options)
        if not self._replaying:
            self._history.append((method, arguments, options))
        return answer

    return call


class Target:
    """A program that serves disks, on the host or in a guest."""

    name = None
    # What it can do, in words that scenarios use in `needs`. See docs/laboratory.md for the list.
    features = frozenset()
    # Scenarios that are right and that it fails, with the reason: skipped, which is printed and counted.
    deviations = {}

    def __init__(self, machine, log, scratch):
        self.machine, self.log, self.scratch = machine, log, scratch
        self._process, self._history, self._replaying = None, [], False
        self._portals = []
        self.arguments = []  # more of its command line, where it has one
        self.environment = {}

    def __str__(self):
        return self.name

    # To be written for each target

    def command(self):
        """Its command line."""
        raise NotImplementedError

    def answers(self):
        """Whether it can be configured now."""
        raise NotImplementedError

    def listen(self, portals):
        """Opens portals."""
        raise NotImplementedError

    def create_disk(self, name, mib, kind="ram", block=512):
        """A disk: `ram`, `file` (keeps its data; `file_of(name)` is behind it) or `null`."""
        raise NotImplementedError

    def create_disk_on(self, name, path, block=512):
        """A disk on a block device or file that is there already."""
        raise NotImplementedError

    def create_slow_disk(self, name, base):
        """A disk in front of another that can be slow (`set_delay`)."""
        raise NotImplementedError

    def set_delay(self, name, milliseconds, cancellable=True):
        """How slow it is from now on; None: it answers nothing. `cancellable`: what waits can be taken back."""
        raise NotImplementedError

    def create_node(self, iqn, luns, chap=None, mutual=None, digests=None):
        """A target node with disks by LUN. `chap`, `mutual`: (name, secret)."""
        raise NotImplementedError

    def add_lun(self, iqn, lun, disk):
        raise NotImplementedError

    def remove_lun(self, iqn, lun):
        raise NotImplementedError

    def resize_disk(self, name, mib):
        raise NotImplementedError

    def counters(self):
        """Numbers about itself, by name."""
        raise NotImplementedError

    def tasks(self):
        """Tasks alive in it now."""
        raise NotImplementedError

    # The same for all

    def file_of(self, disk):
        return f"{self.scratch}/{disk}.disk"

    @property
    def running(self):
        return self._process is not None and self._process.running

    def start(self, portals):
        self._portals = portals
        self._launch()

    def _launch(self):
        step(f"start {self.name} on {self.machine}")
        self._process = self.machine.start(*self.command(), env=self.environment, log=self.log)

        def up():
            if not self._process.running:
                result = self._process.wait(1, expect=None)
                raise AssertionError(f"{self.name} ended at its start with {result.code}:\n{result.out}{result.err}")
            return self.answers()

        eventually(up, f"{self.name} can be configured", 20)
        self.listen(self._portals)

    def kill(self, number=signal.SIGKILL):
        """Ends it as a power cut would."""
        step(f"kill {self.name}")
        self._process.signal(number)
        self._process.wait(20, expect=None)

    def freeze(self):
        """It holds still, as if its host had no time for it, until `thaw`."""
        step(f"freeze {self.name}")
        self._process.signal(signal.SIGSTOP)

    def thaw(self):
        step(f"thaw {self.name}")
        self._process.signal(signal.SIGCONT)

    def restart(self):
        """Starts it again, configured as before."""
        self._launch()
        self._replaying = True
        try:
            for method, arguments, options in self._history:
                method(self, *arguments, **options)
        finally:
            self._replaying = False

    def assert_alive(self):
        if self._process is not None and not self._process.running:
            result = self._process.wait(1, expect=None)
            raise AssertionError(f"{self.name} has ended by itself with {result.code}: see {self.log}")
