"""Spindle, configured over its JSON-RPC socket as an operator would."""
import itertools
import os
from pathlib import Path

from laboratory.paths import REPOSITORY
from laboratory.targets.base import Target, remembered

SOCKET = "/run/spindle.sock"


class Spindle(Target):
    """The `spindle` binary: SPINDLE_BINARY, or target/release/spindle."""

    name = "spindle"
    features = frozenset(
        "discovery chap mutual-chap digests ipv6 portals file-disk restart hot-lun resize verify sync write-same unmap "
        "compare-and-write spc2-reservations persistent-reservations read-full-status aptpl report-opcodes multi-initiator reset target-reset tasks counters nv-cache small-pool delay".split()
    )

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._ids, self._groups = itertools.count(1), itertools.count(1)
        self._kinds = {}
        # (of a build that makes mistakes on purpose: which)
        self.environment = {name: os.environ[name] for name in ("SPINDLE_PLANTED",) if name in os.environ}

    @staticmethod
    def binary():
        return Path(os.environ.get("SPINDLE_BINARY") or REPOSITORY / "target" / "release" / "spindle").resolve()

    def command(self):
        path = self.binary()
        if self.machine.name != "host":
            self.machine.put("/usr/local/bin/spindle", path.read_bytes(), 0o755)
            path = "/usr/local/bin/spindle"
        state = f"{self.scratch}/spindle-state"
        return [path, "run", "--socket", SOCKET, "--state", state, *self.arguments]

    def rpc(self, method, **params):
        """One call; what it answers."""
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        answer = self.machine.ask(SOCKET, request)
        if "error" in answer:
            raise AssertionError(f"{method}({params}): {answer['error']}")
        return answer["result"]

    def answers(self):
        try:
            return bool(self.rpc("rpc_get_methods"))
        except OSError:
            return False

    def listen(self, portals):
        split = [portal.rsplit(":", 1) for portal in portals]
        self.rpc(
            "iscsi_create_portal_group",
            tag=1,
            portals=[{"host": host.strip("[]"), "port": port} for host, port in split],
            allow_open_access=True,
        )
        self.rpc("iscsi_create_initiator_group", tag=1, initiators=["ANY"], netmasks=["ANY"])

    @remembered
    def create_disk(self, name, mib, kind="ram", block=512):
        if kind == "file":
            self.machine.run("truncate", "-s", f"{mib}M", self.file_of(name))
            self.create_on(name, self.file_of(name), block)
            return
        method = {"ram": "bdev_malloc_create", "null": "bdev_null_create"}[kind]
        self.rpc(method, name=name, num_blocks=(mib << 20) // block, block_size=block)
        self._kinds[name] = method

    @remembered
    def create_disk_on(self, name, path, block=512, nv_cache=False):
        self.create_on(name, path, block, cache="nv_cache" if nv_cache else "write_back")

    def create_on(self, name, path, block, **more):
        self.rpc("bdev_uring_create", name=name, filename=path, block_size=block, **more)
        self._kinds[name] = "bdev_uring_create"

    @remembered
    def create_slow_disk(self, name, base):
        self.rpc("bdev_delay_create", name=name, base_bdev_name=base, delay_us=0)

    def set_delay(self, name, milliseconds, cancellable=True):
        delay = None if milliseconds is None else milliseconds * 1000
        self.rpc("bdev_delay_set", name=name, delay_us=delay, form="queued" if cancellable else "late")

    @remembered
    def create_node(self, iqn, luns, chap=None, mutual=None, digests=None):
        # (digests are offered to whoever asks; there is nothing to say for them)
        group = 0
        if chap:
            group = next(self._groups)
            secret = {"user": chap[0], "secret": chap[1]}
            if mutual:
                secret |= {"muser": mutual[0], "msecret": mutual[1]}
            self.rpc("iscsi_create_auth_group", tag=group, secrets=[secret])
        self.rpc(
            "iscsi_create_target_node",
            name=iqn,
            alias_name="laboratory",
            pg_ig_maps=[{"pg_tag": 1, "ig_tag": 1}],
            luns=[{"bdev_name": disk, "lun_id": lun} for lun, disk in luns.items()],
            chap_group=group,
            require_chap=bool(chap),
            mutual_chap=bool(mutual),
        )

    @remembered
    def add_lun(self, iqn, lun, disk):
        self.rpc("iscsi_target_node_add_lun", name=iqn, bdev_name=disk, lun_id=lun)

    @remembered
    def remove_lun(self, iqn, lun):
        self.rpc("iscsi_target_node_remove_lun", name=iqn, lun_id=lun)

    @remembered
    def resize_disk(self, name, mib):
        self.rpc(self._kinds[name].replace("_create", "_resize"), name=name, new_size=mib)

    def counters(self):
        return {row["name"]: row for row in self.rpc("bdev_get_iostat")["bdevs"]}

    def tasks(self):
        """Tasks alive now, as it tells them."""
        return self.rpc("spindle_get_tasks")
