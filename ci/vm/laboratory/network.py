"""The network of one scenario: segments, ports, and what can be done to a port while traffic flows.

    guest ── tap ── bridge of the segment ── host's address                  a plain port
    guest ── tap ── bridge of its own ── tap ─ relay ─ tap ── bridge ...     an impaired port

The relay stands between two TAPs that ask for no offloads, so the kernel hands it whole, checksummed frames, whatever
the guest's NIC left to the hardware. A bridge apart, `control`, carries the conversation with the agents: no scenario
touches it.
"""
import json
import subprocess
import sys
from pathlib import Path

from laboratory import steps

CONTROL = "10.9.0"


def ip(*lines):
    """Runs `ip` once over a batch of lines."""
    done = subprocess.run(["ip", "-batch", "-"], input="\n".join(lines) + "\n", text=True, capture_output=True)
    if done.returncode:
        raise RuntimeError(f"ip: {done.stderr.strip()} in\n" + "\n".join(lines))


def address(segment, number, ipv6=False):
    """The address of a machine on a segment: 1 is the target's machine, initiators follow from 2."""
    return f"fd1{segment}::{number}" if ipv6 else f"10.10.{segment}.{number}"


class Port:
    """Where a guest meets a segment."""

    def __init__(self, guest, segment, tap, bridge, relay=None):
        self.guest, self.segment, self.tap, self._bridge, self._relay = guest, segment, tap, bridge, relay

    def __str__(self):
        return f"{self.guest}'s port on segment {self.segment}"

    def cut(self):
        """Nothing passes from now on; nobody is told."""
        # (the TAP itself stays up: the NIC of a user-mode kernel stops for good at the first error of its TAP)
        steps.step(f"cut {self}")
        ip(f"link set {self.tap} nomaster")

    def restore(self):
        steps.step(f"restore {self}")
        ip(f"link set {self.tap} master {self._bridge}")

    def impair(self, **how):
        """Sets what the relay does: see `relay.Impairment` for the names. What is not named is as on a clean link."""
        if not self._relay:
            raise RuntimeError(f"{self} has no relay: the topology must say impaired=True")
        steps.step(f"impair {self}: {how or 'nothing'}")
        self._relay.stdin.write(json.dumps(how) + "\n")
        self._relay.stdin.flush()
        answer = json.loads(self._relay.stdout.readline())
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def relayed(self):
        """What the relay counted so far: frames passed, lost, reordered."""
        self._relay.stdin.write('"counters"\n')
        self._relay.stdin.flush()
        return json.loads(self._relay.stdout.readline())


class Network:
    """Bridges, TAPs and addresses of the scenario's own network namespace."""

    def __init__(self, topology, seed, captures):
        self._topology, self._seed, self._captures = topology, seed, captures
        self.ports = {}
        # A host answers ARP for its addresses at every interface: guests would find a way around their relay, and
        # around a cut. Here an interface answers for its own addresses only.
        for which in ("all", "default"):
            Path(f"/proc/sys/net/ipv4/conf/{which}/arp_ignore").write_text("1")
        lines = [
            "link set lo up",
            "link add control type bridge mcast_snooping 0",
            f"addr add {CONTROL}.1/24 dev control",
            "link set control up",
        ]
        for segment in range(topology.segments):
            name = f"segment{segment}"
            lines += [f"link add {name} mtu {topology.mtu} type bridge mcast_snooping 0"]
            if topology.target == "host":
                lines += [
                    f"addr add {address(segment, 1)}/24 dev {name}",
                    f"addr add {address(segment, 1, True)}/64 dev {name} nodad",
                ]
            lines += [f"link set {name} up"]
        ip(*lines)

    def connect(self, machine, index, number):
        """The TAPs of one guest: control first, then one for each segment. Gives (tap, MAC) for each."""
        lines, taps = [], []
        for segment in range(-1, self._topology.segments):
            tap = f"tap{index}.{segment}" if segment >= 0 else f"tap{index}.c"
            taps.append((tap, f"02:00:00:00:{index:02x}:{segment + 1:02x}"))
            mtu = self._topology.mtu if segment >= 0 else 1500
            lines += [f"tuntap add {tap} mode tap", f"link set {tap} mtu {mtu} txqueuelen 10000"]
            if segment < 0:
                lines += [f"link set {tap} master control", f"link set {tap} up"]
                continue
            relay, bridge = None, f"segment{segment}"
            if self._topology.impaired and number != 1:
                bridge, inner, outer = f"own{index}.{segment}", f"in{index}.{segment}", f"out{index}.{segment}"
                ip(*lines)
                lines = []
                ip(
                    f"link add {bridge} mtu {mtu} type bridge mcast_snooping 0",
                    f"link set {bridge} up",
                    f"tuntap add {inner} mode tap",
                    f"tuntap add {outer} mode tap",
                    *(f"link set {end} mtu {mtu} txqueuelen 10000" for end in (inner, outer)),
                    f"link set {inner} master {bridge} up",
                    f"link set {outer} master segment{segment} up",
                )
                relay = subprocess.Popen(
                    [sys.executable, "-m", "laboratory.relay", inner, outer, f"{self._seed}/{index}/{segment}"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                json.loads(relay.stdout.readline())  # it holds both TAPs now
            lines += [f"link set {tap} master {bridge}", f"link set {tap} up"]
            self.ports[machine, segment] = Port(machine, segment, tap, bridge, relay)
        ip(*lines)
        return taps

    def capture(self):
        """Packets of every segment, shortened, the last 64 MB of them."""
        for segment in range(self._topology.segments):
            subprocess.Popen(
                ["tcpdump", "-i", f"segment{segment}", "-n", "-U", "-s", "180", "-B", "4096", "-Z", "root"]
                + ["-C", "32", "-W", "2", "-w", f"{self._captures}/segment{segment}.pcap"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )


def addresses(topology, number, device, control):
    """Shell lines that give a guest its addresses. `device`: the name of its NIC n; `number`: .number on segments."""
    lines = [
        "ip link set lo up",
        f"ip addr add {CONTROL}.{control}/24 dev {device(0)}",
        f"ip link set {device(0)} up",
    ]
    for segment in range(topology.segments):
        nic = device(segment + 1)
        lines += [
            f"ip link set {nic} mtu {topology.mtu}",
            f"ip addr add {address(segment, number)}/24 dev {nic}",
            f"ip addr add {address(segment, number, True)}/64 dev {nic} nodad",
            f"ip link set {nic} up",
        ]
    return lines
