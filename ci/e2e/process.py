#!/usr/bin/env python3
"""The process: what it refuses at start, what it does without, how it ends."""

import contextlib
import ctypes
import os
import pathlib
import shutil
import signal
import socket as sockets
import struct
import subprocess
import sys
import tempfile
import threading
import time

import initiator
from initiator import Session
from loops import sh
from target import BINARY, demo, start, start_run, wait_for

NOBODY = 65534
WAKE_LATENCY = "/dev/cpu_dma_latency"


def fails(*words, saying=(), code=1, **named):
    """A start that must not succeed: exit code, and a sentence that says why."""
    done = subprocess.run([BINARY, *words], capture_output=True, text=True, timeout=60, **named)
    assert done.returncode == code, f"{words}: code {done.returncode}\n{done.stderr}"
    assert all(s in done.stderr for s in saying), f"{words} does not say {saying}:\n{done.stderr}"
    assert "panicked" not in done.stderr and not done.stdout, done
    return done.stderr


def refusals(folder):
    own = ["--socket", f"{folder}/refused.sock", "--state", f"{folder}/state"]
    with sockets.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        fails("demo", "--port", str(port), *own, saying=["--port", str(port), "in use"])
    assert not os.path.exists(f"{folder}/refused.sock"), "a start that failed leaves a socket"
    absent = os.cpu_count() + 5
    fails("demo", "--port", "0", "--cores", str(absent), *own, saying=["--cores", str(absent), "usable"])
    fails("demo", "--port", "0", "--cores", "3-1", *own, code=2, saying=["--cores"])
    fails("demo", "--port", "0", "--memory", "16M", "--pool", "64M", *own, saying=["--memory", "65 MiB"])
    fails("demo", "--port", "0", "--pool", "1M", *own, saying=["--pool"])
    fails("demo", "--port", "0", "--listen", "example.org", *own, saying=["--listen"])
    fails("demo", "--port", "0", "--size", "1.5G", *own, code=2, saying=["--size"])
    fails("demo", "--port", "0", "--block-size", "513", "--size", "64M", *own, saying=["block_size"])
    fails("demo", "--port", "0", "--file", folder, *own, saying=["filename"])
    fails("demo", "--port", "0", "--size", "1T", *own, saying=["memory"])
    fails("run", "-c", f"{folder}/none.json", *own, saying=["none.json"])
    fails("run", "--log", "no=such=filter", *own, code=2, saying=["--log"])
    fails("nonsense", code=2, saying=["nonsense"])
    pathlib.Path(folder, "file").write_text("mine")
    fails("run", "--socket", f"{folder}/file", "--state", f"{folder}/state", saying=["not a socket"])
    assert pathlib.Path(folder, "file").read_text() == "mine"
    target = start_run(folder=folder)
    fails("run", "--socket", target.socket, "--state", f"{folder}/state", saying=["--socket"])
    # A socket left behind by a dead process is no obstacle.
    target.kill()
    assert target.socket.exists()
    start_run(folder=folder).stop()
    assert not target.socket.exists(), "a target that ended in order leaves its socket"


class Load(threading.Thread):
    """Writes until the target ends; notes what was acknowledged."""

    def __init__(self, url, number):
        super().__init__()
        self.disk = Session(url, name=f"iqn.2026-01.org.example:load-{number}", timeout=10)
        self.number, self.written, self.count = number, {}, 0

    def run(self):
        with contextlib.suppress(initiator.Broken, initiator.Check):
            while True:
                lba = self.number * 4096 + self.count % 512 * 8
                data = struct.pack(">Q", self.count) * 512
                self.disk.write(lba, data)
                self.written[lba] = data
                self.count += 1
        self.disk.drop()


def two_cores(folder):
    """Sessions are spread over the cores, and each is served."""
    with demo("--size", "64M", "--cores", "0-1", folder=folder) as target:
        sessions = [Session(target.url, name=f"iqn.2026-01.org.example:s{n}") for n in range(6)]
        cores = [c["lcore_id"] for c in target.call("iscsi_get_connections")]
        assert sorted(set(cores)) == [0, 1] and len(cores) == 6, f"sessions are on cores {cores}"
        for n, disk in enumerate(sessions):
            disk.write(n, bytes([n]) * 512)
        for disk in sessions:
            assert [disk.read(n, 1) for n in range(6)] == [bytes([n]) * 512 for n in range(6)]
        assert all(r["busy"] > 0 for r in target.call("framework_get_reactors")["reactors"])
        for disk in sessions:
            disk.close()
        wait_for("sessions to end", lambda: target.call("iscsi_get_connections") == [])


def endings(folder):
    for sig in (signal.SIGTERM, signal.SIGINT):
        path = f"{folder}/disk-{sig}"
        target = start("--file", path, "--size", "64M", "--cores", "0-1", folder=folder)
        load = [Load(target.url, n) for n in range(3)]
        for thread in load:
            thread.start()
        wait_for("load", lambda: all(t.count > 20 for t in load))
        began = time.monotonic()
        target.process.send_signal(sig)
        code = target.process.wait(30)
        took = time.monotonic() - began
        for thread in load:
            thread.join(30)
            assert not thread.is_alive(), "an initiator hangs after the target has ended"
        assert code == 0, f"exit code {code} after {sig!r} under load\n{target.log.read_text()}"
        assert took < 10, f"it took {took:.1f} s to end"
        assert not target.socket.exists(), "the RPC socket stays"
        with open(path, "rb") as file:
            for thread in load:
                assert thread.written
                for lba, data in thread.written.items():
                    file.seek(lba * 512)
                    assert file.read(len(data)) == data, "an acknowledged write is not in the file"
    # A second signal does not wait for those who do not log out.
    target = start("--size", "64M", folder=folder)
    silent = Session(target.url)
    target.process.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert target.process.poll() is None, "the target did not wait for its session"
    refused = None
    try:
        Session(target.url, timeout=2)
    except initiator.Broken as e:
        refused = e
    assert refused, "a login was taken after SIGTERM"
    target.process.send_signal(signal.SIGTERM)
    assert target.process.wait(2) == 1, "a second SIGTERM ends it at once, code 1"
    silent.drop()
    # Without one, a session that says nothing is dropped after a while.
    target = start("--size", "64M", folder=folder)
    silent = Session(target.url)
    began = time.monotonic()
    target.stop()
    assert time.monotonic() - began < 8, "a silent session holds the target up"
    silent.drop()
    # Standard output that nobody reads is no reason to end.
    process = subprocess.Popen([BINARY, "demo", "--port", "0", "--size", "64M", "--socket", f"{folder}/pipe.sock",
                                "--state", f"{folder}/state"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    process.stdout.readline()
    process.stdout.close()
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0


def unprivileged(folder):
    """As a user without any rights: it serves, and says what it had to do without."""
    if os.geteuid() != 0:
        return "as the user of this test"
    binary = f"{folder}/spindle"
    shutil.copy(BINARY, binary)
    os.chmod(binary, 0o755)
    os.chmod(folder, 0o755)
    home = f"{folder}/home"
    os.mkdir(home)
    os.chown(home, NOBODY, NOBODY)
    as_nobody = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups", "--inh-caps=-all",
                 "--bounding-set=-all", "--no-new-privs", "prlimit", "--memlock=65536:65536"]
    environment = {"PATH": os.environ["PATH"], "HOME": home, "TMPDIR": home}
    log = pathlib.Path(folder, "nobody.log")

    def serve(*words, env=None):
        with open(log, "w") as out:
            process = subprocess.Popen([*as_nobody, binary, "demo", "--port", "0", "--size", "64M", *words], env=env or environment,
                                       stdout=subprocess.PIPE, stderr=out, text=True, cwd="/")
        url = process.stdout.readline().strip()
        assert url.startswith("iscsi://"), f"nobody is not served:\n{log.read_text()}"
        return process, url

    process, url = serve("--file", f"{home}/disk")
    with Session(url) as disk:
        disk.write(0, b"n" * 4096)
        disk.sync()
        assert disk.read(0, 8) == b"n" * 4096
        # Reservations that outlive a restart need a folder: there is one in the user's home.
        assert os.path.isdir(f"{home}/.local/state/spindle"), os.listdir(home)
    told = log.read_text()
    # Reserved huge pages, where the machine has them, need no locking.
    if "2 MiB pages" not in told:
        assert "lock" in told.lower() and "WARN" in told, f"no word of memory that could not be locked:\n{told}"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    # Not even a home: reservations cannot be kept, everything else works.
    process, url = serve(env={**environment, "HOME": "/nonexistent"})
    with Session(url) as disk:
        disk.write(0, b"n" * 4096)
        # PERSISTENT RESERVE OUT, REGISTER with APTPL: SPC-5 §6.16: refused where it cannot be kept.
        answer = disk.command(bytes([0x5F, 0, 0, 0, 0, 0, 0, 0, 24, 0]), write=bytes(8) + b"\0\0\0\0\0\0\0\1" + b"\0\0\0\0\1\0\0\0")
        assert answer.sense and answer.sense[0] == initiator.ILLEGAL_REQUEST, f"APTPL without a place for it: {answer.sense}"
    assert "--state" in log.read_text(), "no word of the state folder"
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    # A port below 1024 and a disk of root's are refused in so many words.
    low = subprocess.run([*as_nobody, binary, "demo", "--port", "860", "--size", "64M"], env=environment, cwd="/",
                         capture_output=True, text=True, timeout=60)
    if int(pathlib.Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) > 860:
        assert low.returncode == 1 and "ermission denied" in low.stderr, low
    pathlib.Path(folder, "roots").write_bytes(bytes(1 << 20))
    os.chmod(f"{folder}/roots", 0o600)
    other = subprocess.run([*as_nobody, binary, "demo", "--port", "0", "--file", f"{folder}/roots"], env=environment, cwd="/",
                           capture_output=True, text=True, timeout=60)
    assert other.returncode == 1 and "ermission denied" in other.stderr and "filename" in other.stderr, other
    return "as nobody, with 64 KiB of lockable memory"


def forbid_io_uring():
    """What container runtimes do by default: io_uring_setup answers EPERM (seccomp(2), one classic BPF program)."""
    IO_URING_SETUP, EPERM = 425, 1
    LOAD, JUMP_EQUAL, RETURN, ALLOW, ERRNO = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050000
    program = b"".join(struct.pack("=HBBI", *row) for row in [
        (LOAD, 0, 0, 0), (JUMP_EQUAL, 0, 1, IO_URING_SETUP), (RETURN, 0, 0, ERRNO | EPERM), (RETURN, 0, 0, ALLOW)])
    code = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("=HxxxxxxQ", 4, ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER = 38, 22, 2
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, FILTER, ctypes.c_char_p(head), 0, 0):
        raise OSError(ctypes.get_errno(), "seccomp")


def without_io_uring(folder):
    for direct in ([], ["--direct", "--block-size", "4096"]):
        block = 4096 if direct else 512
        file = f"{folder}/threads-{block}"
        process = subprocess.Popen([BINARY, "demo", "--port", "0", "--size", "64M", "--file", file, *direct, "--cores", "0-1",
                                    "--socket", f"{folder}/threads.sock", "--state", f"{folder}/state"],
                                   stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, preexec_fn=forbid_io_uring)
        url = process.stdout.readline().strip()
        assert url.startswith("iscsi://"), "no service without io_uring"
        told = subprocess.run([BINARY, "rpc", "--socket", f"{folder}/threads.sock", "bdev_get_bdevs"], capture_output=True, text=True)
        assert '"engine": "threads"' in told.stdout, told
        image = f"{folder}/image"
        with open(image, "wb") as out:
            out.write(os.urandom(8 << 20))
            out.truncate(64 << 20)
        sh("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", image, url)
        sh("qemu-img", "compare", "-f", "raw", "-F", "raw", image, url)
        with Session(url) as disk:
            disk.write(0, b"t" * 4096, block=block, fua=True)
            disk.sync()
            disk.unmap(4096, 1024)
            assert disk.read(0, 4096 // block, block=block) == b"t" * 4096
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def wake_latency():
    """How many microseconds idle processors may take to come back, by the wishes of all processes; None: nobody tells us."""
    with contextlib.suppress(OSError), open(WAKE_LATENCY, "r+b", buffering=0) as device:
        return struct.unpack("=i", device.read(4))[0]
    return None


def wakefulness(folder):
    """A target's wish for the sleep of idle processors holds while it lives, and no longer, however it ends."""
    folder = pathlib.Path(folder, "wake")
    folder.mkdir()
    before = wake_latency()
    target = start("--size", "64M", "--memory", "256M", "--wake-latency", "7", folder=folder)
    try:
        during = wake_latency()
    finally:
        target.kill()
    told = target.log.read_text()
    if before is None:
        assert any(WAKE_LATENCY in line and "WARN" in line for line in told.splitlines()), f"no word of a wish that was not taken:\n{told}"
        return f"without {WAKE_LATENCY}"
    after = wake_latency()
    # Others may have wishes of their own.
    assert during <= 7 and (after > 7 or before <= 7), f"{before} µs, with a target {during} µs, after it {after} µs"
    assert "within 7 µs" in told or "no cpuidle driver" in told, told
    return f"idle processors back within {during} µs while it lived"


def main():
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spindle-process-") as folder:
        refusals(folder)
        two_cores(folder)
        endings(folder)
        user = unprivileged(folder)
        without_io_uring(folder)
        woken = wakefulness(folder)
    print(f"RESULT: refusals at start, sessions on two cores, SIGTERM and SIGINT under load, {user}, without io_uring, {woken}: "
          f"well; {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
    sys.exit(0)
