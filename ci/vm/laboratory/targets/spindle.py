"""Spindle, configured over its JSON-RPC socket as an operator would."""
import itertools
import os
from pathlib import Path

from laboratory.paths import REPOSITORY
from laboratory.targets.base import Target, remembered

SOCKET = "/run/spindle-lab.sock"


class Spindle(Target):
    """The `spindle` binary: SPINDLE_BINARY, or target/release/spindle."""

    name = "spindle"
    features = frozenset("discovery".split())

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._ids = itertools.count(1)
        self._nodes = {}

    @staticmethod
    def binary():
        return Path(os.environ.get("SPINDLE_BINARY") or REPOSITORY / "target" / "release" / "spindle").resolve()

    def command(self):
        path = self.binary()
        if self.machine.name != "host":
            self.machine.put("/usr/local/bin/spindle", path.read_bytes(), 0o755)
            path = "/usr/local/bin/spindle"
        return [path, "--rpc-socket", SOCKET]

    def rpc(self, method, **params):
        request = {"jsonrpc": "2.0", "id": next(self._ids), "method": method, "params": params}
        answer = self.machine.ask(SOCKET, request)
        if "error" in answer:
            raise AssertionError(f"{method}({params}): {answer['error']}")
        return answer["result"]

    def answers(self):
        try:
            self.rpc("rpc_get_methods")
            return True
        except OSError:
            return False

    def listen(self, portals):
        split = [portal.rsplit(":", 1) for portal in portals]
        self.rpc("iscsi_create_portal_group", tag=1, portals=[{"host": host, "port": port} for host, port in split])
        self.rpc("iscsi_create_initiator_group", tag=1, initiators=["ANY"], netmasks=["ANY"])

    @remembered
    def create_disk(self, name, mib, kind="ram", block=512):
        if kind == "file":
            self.machine.run("truncate", "-s", f"{mib}M", self.file_of(name))
            self.rpc("bdev_aio_create", name=name, filename=self.file_of(name), block_size=block)
        else:
            method = {"ram": "bdev_malloc_create", "null": "bdev_null_create"}[kind]
            self.rpc(method, name=name, num_blocks=(mib << 20) // block, block_size=block)

    @remembered
    def create_node(self, iqn, luns, chap=None, mutual=None, digests=None):
        self.rpc(
            "iscsi_create_target_node",
            name=iqn,
            alias_name="lab",
            pg_ig_maps=[{"pg_tag": 1, "ig_tag": 1}],
            luns=[{"bdev_name": disk, "lun_id": lun} for lun, disk in luns.items()],
            queue_depth=64,
            disable_chap=not chap,
            require_chap=bool(chap),
            mutual_chap=bool(mutual),
        )

    @remembered
    def add_lun(self, iqn, lun, disk):
        self.rpc("iscsi_target_node_add_lun", name=iqn, bdev_name=disk, lun_id=lun)

    @remembered
    def remove_lun(self, iqn, lun):
        self.rpc("iscsi_target_node_remove_lun", name=iqn, lun_id=lun)
