"""tgt (Debian package `tgt`): a stand-in, to build scenarios against and to compare with."""
from laboratory.targets.base import Target, remembered


class Tgt(Target):
    """tgtd, configured by tgtadm."""

    name = "tgt"
    # (its SendTargets tells only the portal that was asked: no `portals`)
    features = frozenset(
        "discovery chap mutual-chap digests ipv6 file-disk hot-lun spc2-reservations persistent-reservations "
        "restart reset multi-initiator verify sync write-same".split()
    )
    deviations = {
        "reservations/conflicts": "RESERVE(6) is granted beside registrations",
        "reservations/preempted": "RESERVATIONS PREEMPTED where REGISTRATIONS PREEMPTED is due",
        "sg3/sync_and_verify": "VERIFY past the end is GOOD",
    }

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self._tids, self._accounts, self._disks = {}, set(), {}

    def command(self):
        return ["tgtd", "-f", "--iscsi", f"portal={self._portals[0]}"]

    def _admin(self, *words, **options):
        return self.machine.run("tgtadm", "--lld", "iscsi", *words, **options)

    def answers(self):
        return self._admin("--op", "show", "--mode", "sys", expect=None, quiet=True).code == 0

    def listen(self, portals):
        self._tids, self._accounts = {}, set()
        for portal in portals[1:]:
            self._admin("--op", "new", "--mode", "portal", "--param", f"portal={portal}")

    @remembered
    def create_disk(self, name, mib, kind="ram", block=512):
        path = self.file_of(name) if kind == "file" else f"/dev/shm/{name}.disk"
        self.machine.run("truncate", "-s", f"{mib}M", path)
        self._disks[name] = (path, block)

    @remembered
    def create_disk_on(self, name, path, block=512):
        self._disks[name] = (path, block)

    @remembered
    def create_node(self, iqn, luns, chap=None, mutual=None, digests=None):
        tid = self._tids[iqn] = len(self._tids) + 1
        self._admin("--op", "new", "--mode", "target", "--tid", tid, "-T", iqn)
        for lun, disk in luns.items():
            self._attach(tid, lun, disk)
        for (account, outgoing) in ((chap, False), (mutual, True)):
            if not account:
                continue
            if account not in self._accounts:
                self._accounts.add(account)
                self._admin("--op", "new", "--mode", "account", "--user", account[0], "--password", account[1])
            self._admin("--op", "bind", "--mode", "account", "--tid", tid, "--user", account[0],
                        *(["--outgoing"] if outgoing else []))  # fmt: skip
        for key in ("HeaderDigest", "DataDigest"):
            if digests:
                self._admin("--op", "update", "--mode", "target", "--tid", tid, "-n", key, "-v", digests)
        self._admin("--op", "bind", "--mode", "target", "--tid", tid, "-I", "ALL")

    def _attach(self, tid, lun, disk):
        path, block = self._disks[disk]
        self._admin("--op", "new", "--mode", "logicalunit", "--tid", tid, "--lun", lun, "-b", path,
                    "--blocksize", block)  # fmt: skip

    @remembered
    def add_lun(self, iqn, lun, disk):
        self._attach(self._tids[iqn], lun, disk)

    @remembered
    def remove_lun(self, iqn, lun):
        self._admin("--op", "delete", "--mode", "logicalunit", "--tid", self._tids[iqn], "--lun", lun)
