"""The two kinds of guest: a user-mode kernel, and an emulated machine with Debian's own kernel.

Both start from the same root image, which they never write, with an initramfs made for this one start: the agent, its
addresses. A guest is thrown away by ending its process.
"""
import os
import signal
import socket
import subprocess
import threading

from laboratory import steps
from laboratory.build import DEBIAN_KERNEL, ROOT_IMAGE, UML_KERNEL
from laboratory.initramfs import Initramfs
from laboratory.machine import PATIENCE, Machine, Timeout
from laboratory.network import CONTROL, addresses
from laboratory.paths import GUEST

AGENT_PORT = 7


class Reception:
    """Takes the first word of each guest's agent."""

    def __init__(self):
        self._ear = socket.create_server((f"{CONTROL}.1", 0), backlog=16)
        self.address = f"{CONTROL}.1:{self._ear.getsockname()[1]}"
        self._arrived, self._changed = set(), threading.Condition()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            sock, (peer, _) = self._ear.accept()
            sock.close()
            with self._changed:
                self._arrived.add(peer)
                self._changed.notify_all()

    def forget(self, peer):
        with self._changed:
            self._arrived.discard(peer)

    def wait(self, peer, timeout):
        with self._changed:
            return self._changed.wait_for(lambda: peer in self._arrived, timeout)


class Guest(Machine):
    """A guest. `number`: its place on the segments; `index`: its place among the guests."""

    kind = None
    boot_timeout = 30

    def __init__(self, name, index, number, world):
        self._control = index + 2
        super().__init__(name, f"{CONTROL}.{self._control}:{AGENT_PORT}")
        self.index, self.number, self._world = index, number, world
        self.console = world.out / f"{name}.console"
        self._taps = world.network.connect(name, index, number)
        self._process, self._boots = None, 0
        self.disks = []

    def add_disk(self, path):
        """A disk of the guest itself, kept in a file of the host. Before `boot`."""
        self.disks.append(path)

    def boot(self):
        """Starts it; `ready` waits until it can be spoken to. One that was killed may be started again."""
        self._boots += 1
        self._world.reception.forget(f"{CONTROL}.{self._control}")
        initramfs = Initramfs()
        initramfs.add_file("init", GUEST / "init")
        initramfs.add_file("busybox", ROOT_IMAGE.folder() / "busybox")
        for path in sorted(GUEST.iterdir()):
            if path.is_file() and path.name != "init":
                initramfs.add_file(f"lab/{path.name}", path)
        lines = addresses(self._world.topology, self.number, self.device, self._control)
        lines += [
            f"LAB_AGENT={CONTROL}.{self._control}:{AGENT_PORT}",
            f"LAB_HELLO={self._world.reception.address}",
            f"hostname {self.name}",
        ]
        initramfs.add("lab/addresses", "\n".join(lines) + "\n")
        self.more_files(initramfs)
        archive = self._world.work / f"{self.name}.initramfs"
        initramfs.write(archive)
        with open(self.console, "ab") as console:
            self._process = subprocess.Popen(
                self.command(archive),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**os.environ, "TMPDIR": "/dev/shm"},
            )

    def ready(self):
        if not self._world.reception.wait(f"{CONTROL}.{self._control}", self.boot_timeout * PATIENCE):
            tail = "".join(self.console.read_text(errors="replace").splitlines(keepends=True)[-30:])
            raise Timeout(f"{self}: not up within {self.boot_timeout * PATIENCE:.0f} s; the end of its console:\n{tail}")
        steps.note(f"{self} ({self.kind}) is up")

    @property
    def running(self):
        return self._process is not None and self._process.poll() is None

    def kill(self):
        """The machine loses its power."""
        steps.step(f"kill {self}")
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def device(self, nic):
        raise NotImplementedError

    def command(self, archive):
        raise NotImplementedError

    def more_files(self, initramfs):
        pass


class UserModeLinux(Guest):
    """An ordinary process, near native speed, one CPU."""

    kind = "uml"

    def device(self, nic):
        return f"vec{nic}"

    def command(self, archive):
        arguments = [
            str(UML_KERNEL.folder() / "linux"),
            f"mem={self._world.memory_mib}M",
            f"initrd={archive}",
            f"ubd0r={ROOT_IMAGE.folder()}/root.img",
            f"uml_dir={self._world.work}",
            f"umid={self.name}.{self._boots}",
            "con=null",
            "con0=null,fd:1",
            "panic=-1",
            "random.trust_cpu=on",
        ]
        arguments += [f"ubd{n}={path}" for n, path in enumerate(self.disks, 1)]
        # Fragments of one flow are joined on the way in (gro); a queue of 128 frames.
        arguments += [
            f"vec{n}:transport=tap,ifname={tap},mac={mac},depth=128,gro=1"
            + (f",mtu={self._world.topology.mtu}" if n else "")
            for n, (tap, mac) in enumerate(self._taps)
        ]
        return arguments


class Qemu(Guest):
    """An emulated PC with Debian's own kernel and several CPUs. No KVM is needed; LAB_ACCEL=kvm takes it."""

    kind = "qemu"
    boot_timeout = 120

    def device(self, nic):
        return f"eth{nic}"

    def more_files(self, initramfs):
        initramfs.add_tree("modules", DEBIAN_KERNEL.folder() / "modules")

    def command(self, archive):
        image = f"{ROOT_IMAGE.folder()}/root.img"
        accel = os.environ.get("LAB_ACCEL", "tcg,thread=multi,tb-size=512")
        arguments = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
        arguments += ["-machine", "q35", "-accel", accel, "-cpu", "host" if accel.startswith("kvm") else "max"]
        arguments += ["-smp", str(self._world.cpus), "-m", f"{self._world.memory_mib}M"]
        arguments += ["-kernel", f"{DEBIAN_KERNEL.folder()}/vmlinuz", "-initrd", str(archive)]
        arguments += ["-append", "console=ttyS0 panic=-1 mitigations=off random.trust_cpu=on net.ifnames=0"]
        arguments += ["-serial", "stdio", "-monitor", "none", "-device", "virtio-rng-pci"]
        # Read by every guest and by nobody written: no lock is wanted.
        for n, drive in enumerate(
            [f"file={image},readonly=on,file.locking=off,cache=unsafe"]
            + [f"file={path},cache=writeback,discard=unmap" for path in self.disks]
        ):
            arguments += ["-drive", f"{drive},format=raw,if=none,id=disk{n}", "-device", f"virtio-blk-pci,drive=disk{n}"]
        for n, (tap, mac) in enumerate(self._taps):
            arguments += ["-netdev", f"tap,id=net{n},ifname={tap},script=no,downscript=no"]
            arguments += ["-device", f"virtio-net-pci,netdev=net{n},mac={mac},romfile="]
        return arguments


KINDS = {kind.kind: kind for kind in (UserModeLinux, Qemu)}
