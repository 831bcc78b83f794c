"""dm-multipath on a guest."""
import re

from laboratory.disk import Disk
from laboratory.machine import eventually
from laboratory.steps import step

CONF = """defaults {
    find_multipaths no
    user_friendly_names yes
    polling_interval 1
    max_polling_interval 2
    path_checker tur
    failback immediate
    no_path_retry 20
    fast_io_fail_tmo 2
    dev_loss_tmo 60
"""

# With several paths a session that fails should hand its I/O over soon.
QUICK = {"node.session.timeo.replacement_timeout": "2"}


class Multipath:
    """udevd and multipathd, and the one map over the paths that are logged in."""

    def __init__(self, machine, log, defaults=""):
        self.machine = machine
        step(f"multipath on {machine}")
        machine.put("/etc/multipath.conf", CONF + defaults + "}\n")
        machine.run("modprobe -qa dm_multipath dm_service_time dm_round_robin scsi_dh_alua", expect={0, 1})
        machine.run("/lib/systemd/systemd-udevd --daemon; udevadm trigger --subsystem-match=block; udevadm settle")
        self._daemon = machine.start("multipathd", "-d", "-s", log=log)

        def mapped():
            return self.machine.find("/dev/mapper/mpath*")

        self.disk = Disk(machine, eventually(mapped, "a multipath map", 30)[0])

    def paths(self):
        """State of each path by its device name (`active ready running`)."""
        shown = self.machine.run("multipathd", "show", "paths", "raw", "format", "%d|%t|%o|%T", quiet=True, expect=None)
        rows = [line.split("|") for line in shown.out.splitlines() if re.match(r"^sd[a-z]+\|", line)]
        return {name: (dm, checker) for name, dm, _, checker in rows}

    def wait_for_active(self, count, timeout=30):
        eventually(
            lambda: sum(dm == "active" and checker == "ready" for dm, checker in self.paths().values()) == count,
            f"{count} active paths (there are {self.paths()})",
            timeout,
            every=0.3,
        )
