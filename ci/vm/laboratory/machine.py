"""A machine: the host or a guest, reached through the agent that runs on it."""
import json
import os
import socket
import sys
import threading
import time

from laboratory import steps
from laboratory.paths import GUEST

sys.path.insert(0, str(GUEST))
import agent  # noqa: E402  (the guests' own file: one protocol, one implementation)


# A wait is for a condition, not for a time: what is waited for comes at once on a quiet machine, and later on a busy
# one. So every timeout of this file is multiplied by this; it bounds a hang and judges nothing.
PATIENCE = float(os.environ.get("LAB_PATIENCE", "3"))


class CommandFailed(AssertionError):
    """A command ended with another exit code than expected."""

    def __init__(self, machine, argv, result):
        self.result = result
        text = (result.out + result.err).strip()
        super().__init__(f"{machine}: {show(argv)}: exit code {result.code}\n{text[-3000:]}")


class Timeout(AssertionError):
    """What was waited for did not happen."""


class Result:
    """What a command left: exit code, output, error output."""

    def __init__(self, code, out, err):
        self.code = code
        self.stdout, self.stderr = out, err

    @property
    def out(self):
        return self.stdout.decode(errors="replace")

    @property
    def err(self):
        return self.stderr.decode(errors="replace")


class Process:
    """A command that runs. Output is collected; `lines` reads it as it comes."""

    def __init__(self, machine, argv, connection, log=None):
        self.machine, self.argv, self._frames = machine, argv, connection
        self._out, self._err, self._code, self._error = bytearray(), bytearray(), None, None
        self._changed = threading.Condition()
        self._log = open(log, "ab", buffering=0) if log else None
        threading.Thread(target=self._collect, daemon=True).start()

    def _collect(self):
        code, error = None, None
        while code is None and error is None:
            kind, payload = self._frames.receive()
            with self._changed:
                if kind in (b"O", b"E"):
                    if self._log:
                        self._log.write(payload)
                    (self._out if kind == b"O" else self._err).extend(payload)
                elif kind == b"X":
                    result = json.loads(payload)
                    code, error = result.get("code"), result.get("error")
                else:
                    error = f"{self.machine} went away"
                self._changed.notify_all()
        with self._changed:
            self._code, self._error = code, error
            self._changed.notify_all()
        self._frames.close()

    @property
    def running(self):
        return self._code is None and self._error is None

    def output(self):
        """What it has written so far."""
        with self._changed:
            return bytes(self._out).decode(errors="replace")

    def wait(self, timeout=60, expect=0):
        """Waits for the end. `expect`: the exit code, a set of them, or None for any."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self.running, timeout * PATIENCE):
                self._frames.close()
                tail = (self._out + self._err)[-2000:].decode(errors="replace")
                raise Timeout(f"{self.machine}: {show(self.argv)}: no end after {timeout * PATIENCE:.0f} s\n{tail}")
            if self._error:
                raise ConnectionError(f"{self.machine}: {show(self.argv)}: {self._error}")
            result = Result(self._code, bytes(self._out), bytes(self._err))
        expected = {expect} if isinstance(expect, int) else expect
        if expected is not None and result.code not in expected:
            raise CommandFailed(self.machine, self.argv, result)
        return result

    def lines(self):
        """Lines of its output as they come, to the end."""
        at = 0
        while True:
            with self._changed:
                self._changed.wait_for(lambda: b"\n" in self._out[at:] or not self.running)
                end = self._out.find(b"\n", at)
                if end < 0:
                    return
                line, at = bytes(self._out[at:end]).decode(errors="replace"), end + 1
            yield line

    def signal(self, number):
        self._frames.send_json(b"S", int(number))

    def write(self, data):
        self._frames.send(b"I", data)

    def close_input(self):
        self._frames.send(b"Z")


class Machine:
    """Commands, files and raw SCSI on one machine."""

    def __init__(self, name, address):
        self.name, self.address = name, address

    def __str__(self):
        return self.name

    @property
    def running(self):
        """Whether it has power."""
        return True

    def _request(self, what, **arguments):
        host, port = self.address.rsplit(":", 1)
        frames = agent.Frames(socket.create_connection((host, int(port)), 20))
        frames.sock.settimeout(None)
        frames.send_json(b"R", {"what": what, **arguments})
        return frames

    def _answer(self, frames, timeout=90):
        frames.sock.settimeout(timeout * PATIENCE)
        data = bytearray()
        try:
            while True:
                kind, payload = frames.receive()
                if kind == b"O":
                    data += payload
                elif kind == b"X":
                    result = json.loads(payload)
                    if "error" in result:
                        raise OSError(f"{self}: {result['error']}")
                    return result, bytes(data)
                else:
                    raise ConnectionError(f"{self}: no answer")
        finally:
            frames.close()

    def start(self, *argv, env=None, cwd=None, log=None, quiet=False):
        """Starts a command; one word is a shell line. `quiet`: it is not worth a line of the scenario's output."""
        argv = [str(word) for word in argv]
        command = ["/bin/sh", "-c", argv[0]] if len(argv) == 1 and " " in argv[0] else argv
        if not quiet:
            steps.command(self.name, show(argv))
        return Process(self, argv, self._request("execute", argv=command, env=env, cwd=cwd), log)

    def run(self, *argv, stdin=None, timeout=60, expect=0, env=None, quiet=False):
        """Runs a command to its end."""
        process = self.start(*argv, env=env, quiet=quiet)
        try:
            if stdin:
                process.write(stdin.encode() if isinstance(stdin, str) else stdin)
            process.close_input()
        except OSError:
            pass  # ended without reading; its exit code says the rest
        result = process.wait(timeout, expect)
        if not quiet:
            steps.output(result)
        return result

    def text(self, *argv, **options):
        """The output of a command, without the last newline."""
        return self.run(*argv, **options).out.rstrip("\n")

    def put(self, path, data, mode=0o644):
        frames = self._request("put", path=str(path), mode=mode)
        data = data.encode() if isinstance(data, str) else data
        for at in range(0, len(data), 1 << 20):
            frames.send(b"I", data[at : at + (1 << 20)])
        frames.send(b"Z")
        self._answer(frames)

    def get(self, path, offset=0, length=None):
        return self._answer(self._request("get", path=str(path), offset=offset, length=length))[1]

    def read(self, path):
        """A small text file (sysfs, procfs)."""
        return self.get(path).decode(errors="replace").strip()

    def find(self, pattern):
        """Paths that match a pattern, sorted."""
        return self._answer(self._request("find", pattern=pattern))[0]["paths"]

    def exists(self, path):
        return bool(self.find(path))

    def ask(self, path, request, timeout=60):
        """One JSON request to a Unix socket of the machine."""
        return self._answer(self._request("ask", path=str(path), request=request, timeout=timeout), timeout + 10)[0][
            "answer"
        ]

    def scsi(self, device, cdb, data_out=None, data_in=0, timeout_ms=30000):
        arguments = dict(device=device, cdb=cdb.hex(), data_in=data_in, timeout_ms=timeout_ms)
        if data_out is not None:
            arguments["data_out"] = data_out.hex()
        return self._answer(self._request("scsi", **arguments), timeout_ms / 1000 + 60)[0]


class Host(Machine):
    """The machine the laboratory runs on, seen from the scenario's namespaces."""

    def __init__(self):
        ear = agent.listen("127.0.0.1:0")
        super().__init__("host", f"127.0.0.1:{ear.getsockname()[1]}")
        threading.Thread(target=agent.serve, args=(ear,), daemon=True).start()


def show(argv):
    words = [str(word) for word in argv]
    return words[0] if len(words) == 1 else " ".join(w if w and " " not in w else repr(w) for w in words)


def eventually(condition, what, timeout=20, every=0.05):
    """Waits until `condition()` is true, and gives its value; `what` says what did not happen."""
    end = time.monotonic() + timeout * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Timeout(f"not within {timeout * PATIENCE:.0f} s: {what}")
        time.sleep(every)
