"""open-iscsi on a guest: discovery, login, sessions, the disks behind them."""
import re

from laboratory.disk import Disk
from laboratory.machine import eventually
from laboratory.steps import step

# Exit codes of iscsiadm that scenarios name.
AUTHENTICATION_FAILED = 24
LOGIN_FAILED = 19

CONF = {
    "node.startup": "manual",
    "node.leading_login": "No",
    "node.session.initial_login_retry_max": "2",
    "node.conn[0].timeo.login_timeout": "10",
    "node.conn[0].timeo.noop_out_interval": "2",
    "node.conn[0].timeo.noop_out_timeout": "2",
    "node.session.timeo.replacement_timeout": "60",
    "node.session.cmds_max": "128",
    "node.session.queue_depth": "64",
    "node.session.scan": "auto",
}


class LoginFailed(AssertionError):
    """The target refused, or did not answer. `code` is iscsiadm's exit code."""

    def __init__(self, code, text):
        self.code = code
        super().__init__(f"login failed (iscsiadm: {code}): {text.strip()}")


class Initiator:
    """iscsid and iscsiadm on one machine, with a name of their own."""

    def __init__(self, machine, name, log, settings=None):
        self.machine, self.name = machine, name
        step(f"start open-iscsi on {machine} as {name}")
        conf = "".join(f"{key} = {value}\n" for key, value in {**CONF, **(settings or {})}.items())
        machine.put("/etc/iscsi/initiatorname.iscsi", f"InitiatorName={name}\n", 0o600)
        machine.put("/etc/iscsi/iscsid.conf", "iscsid.startup = /bin/false\n" + conf, 0o600)
        machine.run("modprobe -qa iscsi_tcp sd_mod sg; mkdir -p /run/lock/iscsi", expect={0, 1})
        self._daemon = machine.start("iscsid", "-f", log=log)
        eventually(
            lambda: "ISCSIADM_ABSTRACT_NAMESPACE" in machine.read("/proc/net/unix"), f"iscsid of {machine} listens"
        )

    def _iscsiadm(self, *words, timeout=60, expect=0):
        return self.machine.run("iscsiadm", *words, timeout=timeout, expect=expect)

    def discover(self, portal, **secrets):
        """SendTargets: a list of (portal, portal group tag, target name). `secrets`: as `login`."""
        if secrets:
            self._iscsiadm("-m", "discoverydb", "-t", "st", "-p", portal, "-o", "new")
            for key, value in authentication("discovery.sendtargets.auth", **secrets).items():
                self._iscsiadm("-m", "discoverydb", "-t", "st", "-p", portal, "-o", "update", "-n", key, "-v", value)
            words = ("-m", "discoverydb", "-t", "st", "-p", portal, "--discover")
        else:
            words = ("-m", "discovery", "-t", "st", "-p", portal)
        result = self._iscsiadm(*words, expect=None)
        if result.code == 21:  # a discovery that ended well and found nothing
            return []
        if result.code:
            raise LoginFailed(result.code, result.err)
        found = re.findall(r"^(\S+),(\d+) (\S+)$", result.out, re.MULTILINE)
        return [(portal, int(tag), name) for portal, tag, name in found]

    def login(self, iqn, portal, chap=None, mutual=None, settings=None, name=None, timeout=60):
        """A session. `chap`: (name, secret) we answer with; `mutual`: (name, secret) the target must know.

        `name`: an initiator name of its own, as if another machine logged in.
        """
        record = ("-m", "node", "-T", iqn, "-p", portal)
        if name:
            interface = name.rsplit(":", 1)[1]
            self._iscsiadm("-m", "iface", "-I", interface, "-o", "new")
            self._iscsiadm("-m", "iface", "-I", interface, "-o", "update", "-n", "iface.initiatorname", "-v", name)
            record += ("-I", interface)
            self._iscsiadm(*record, "-o", "new")
        # (a record that a discovery made stays: a second one, without its portal group tag, would be another login)
        elif not self.machine.find(f"/etc/iscsi/nodes/{iqn}/{portal.rsplit(':', 1)[0].strip('[]')},*"):
            self._iscsiadm(*record, "-o", "new")
        wanted = dict(settings or {})
        if chap:
            wanted |= authentication("node.session.auth", chap, mutual)
        if wanted:
            updates = " ".join(f"-n '{key}' -v '{value}'" for key, value in wanted.items())
            self.machine.run(f"iscsiadm {' '.join(record)} -o update {updates}")
        before = self._session_ids()
        result = self._iscsiadm(*record, "--login", timeout=timeout, expect=None)
        if result.code:
            raise LoginFailed(result.code, result.out + result.err)
        new = self._session_ids() - before
        assert len(new) == 1, f"one session was expected, these are new: {sorted(new)}"
        return Session(self, new.pop(), iqn, portal)

    def another_session(self, session):
        """One more session to the same portal, with an ISID of its own."""
        before = self._session_ids()
        self._iscsiadm("-m", "session", "-r", str(session.sid), "-o", "new")
        new = self._session_ids() - before
        assert len(new) == 1, f"one session was expected, these are new: {sorted(new)}"
        return Session(self, new.pop(), session.iqn, session.portal)

    def _session_ids(self):
        return {int(path.rsplit("session", 1)[1]) for path in self.machine.find("/sys/class/iscsi_session/session*")}

    def sessions(self):
        return len(self._session_ids())

    def logout_all(self):
        self._iscsiadm("-m", "node", "--logoutall=all", expect={0, 21})


class Session:
    """A session as the kernel shows it."""

    def __init__(self, initiator, sid, iqn, portal):
        self.initiator, self.machine = initiator, initiator.machine
        self.sid, self.iqn, self.portal = sid, iqn, portal

    @property
    def state(self):
        return self.machine.read(f"/sys/class/iscsi_session/session{self.sid}/state")

    def parameter(self, name):
        """A negotiated value by its sysfs name (`header_digest`, `first_burst_len`, ...)."""
        for folder in (
            f"/sys/class/iscsi_connection/connection{self.sid}:0",
            f"/sys/class/iscsi_session/session{self.sid}",
        ):
            if self.machine.exists(f"{folder}/{name}"):
                return self.machine.read(f"{folder}/{name}")
        raise KeyError(name)

    def statistics(self):
        """Counters of the session by name (`tmfcmd_pdus`, `timeout_err`, ...)."""
        told = self.machine.text("iscsiadm", "-m", "session", "-r", str(self.sid), "-s", quiet=True)
        return {name: int(value) for name, value in re.findall(r"^\s+(\w+): (\d+)$", told, re.MULTILINE)}

    def luns(self):
        """LUNs the kernel has made devices for."""
        found = self.machine.find(f"/sys/class/iscsi_session/session{self.sid}/device/target*/*:*:*:*")
        return sorted(int(path.rsplit(":", 1)[1]) for path in found)

    def disk(self, lun, timeout=20):
        """Waits for the disk of a LUN."""
        pattern = f"/sys/class/iscsi_session/session{self.sid}/device/target*/*:*:*:{lun}/block/*"

        def found():
            # (a size of nought: sd has not read the capacity yet)
            return [path for path in self.machine.find(pattern) if self.machine.read(f"{path}/size") != "0"]

        path = eventually(found, f"LUN {lun} of {self.iqn} has a disk", timeout)[0]
        return Disk(self.machine, f"/dev/{path.rsplit('/', 1)[1]}", self)

    def rescan(self):
        """Scans for LUNs, as `echo - - -` does."""
        self.machine.run("iscsiadm", "-m", "session", "-r", str(self.sid), "--rescan")

    def wait_for(self, state, timeout):
        eventually(lambda: self.state == state, f"session {self.sid} is {state}", timeout, every=0.1)

    def logout(self):
        self.machine.run("iscsiadm", "-m", "session", "-r", str(self.sid), "--logout")


def authentication(prefix, chap, mutual=None):
    """open-iscsi's settings for CHAP."""
    settings = {
        f"{prefix}.authmethod": "CHAP",
        f"{prefix}.username": chap[0],
        f"{prefix}.password": chap[1],
    }
    if mutual:
        settings |= {f"{prefix}.username_in": mutual[0], f"{prefix}.password_in": mutual[1]}
    return settings
