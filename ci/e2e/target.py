"""Starts `spindle demo` or `spindle run` for a test and stops it again."""

import contextlib
import json
import os
import pathlib
import signal
import socket as sockets
import subprocess
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("SPINDLE_BINARY", ROOT / "target/release/spindle"))


class RpcError(Exception):
    """The target refused a call."""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.code, self.message, self.data = error["code"], error["message"], error.get("data")


class Rpc:
    """A connection to an RPC socket."""

    def __init__(self, path, timeout=60):
        self.socket = sockets.socket(sockets.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(str(path))
        self.buffer, self.ids = "", 0

    def receive(self):
        """The next JSON value."""
        while True:
            text = self.buffer.lstrip()
            try:
                value, end = json.JSONDecoder().raw_decode(text)
                self.buffer = text[end:]
                return value
            except json.JSONDecodeError:
                more = self.socket.recv(1 << 20)
                if not more:
                    raise ConnectionError(f"the target hung up after {self.buffer[:200]!r}")
                self.buffer += more.decode()

    def call(self, method, **params):
        self.ids += 1
        request = {"jsonrpc": "2.0", "id": self.ids, "method": method}
        if params:
            request["params"] = params
        self.socket.sendall(json.dumps(request).encode())
        answer = self.receive()
        assert answer["id"] == self.ids, answer
        if "error" in answer:
            raise RpcError(answer["error"])
        return answer["result"]

    def close(self):
        self.socket.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Target:
    """A running target: its address, its RPC socket, its process."""

    def __init__(self, process, url, socket, log):
        self.process, self.url, self.socket, self.log = process, url, socket, log

    def rpc(self, method, params=None):
        words = [BINARY, "rpc", "--socket", self.socket, method]
        if params is not None:
            words.append(json.dumps(params))
        return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

    def call(self, method, **params):
        """The same over a connection of its own; a refusal is an `RpcError`."""
        with Rpc(self.socket) as rpc:
            return rpc.call(method, **params)

    def resident_kib(self):
        lines = pathlib.Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmRSS")).split()[1])

    def settled_kib(self):
        """The same when nothing changes any more: pools are populated in the background."""
        before = -1
        while (now := self.resident_kib()) != before:
            before = now
            time.sleep(0.5)
        return now

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """Orderly: SIGTERM must end it with exit code 0."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError("the target did not end within 20 s of SIGTERM\n" + self.log.read_text())
        assert code == 0, f"exit code {code} after SIGTERM\n{self.log.read_text()}"


def start(*options, folder):
    folder = pathlib.Path(folder)
    socket, log = folder / "rpc.sock", folder / "spindle.log"
    words = [BINARY, "demo", "--port", "0", "--socket", socket, "--state", folder / "state", *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=open(log, "a"), text=True)
    url = process.stdout.readline().strip()
    if not url.startswith("iscsi://"):
        process.wait()
        raise AssertionError(f"the target did not serve: {url!r}\n{log.read_text()}")
    return Target(process, url, socket, log)


def start_run(*options, folder, config=None, prefix=(), wait=True):
    """`spindle run`; serves when this returns, unless told not to wait. `prefix`: words before it, such as `setpriv ...`."""
    folder = pathlib.Path(folder)
    socket, log = folder / "rpc.sock", folder / "spindle.log"
    words = [*prefix, BINARY, "run", "--socket", socket, "--state", folder / "state", *options]
    if config is not None:
        words += ["-c", config]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=open(log, "a"), text=True)
    if not wait:
        return Target(process, None, socket, log)
    limit = time.monotonic() + 30
    while True:
        with contextlib.suppress(OSError):
            Rpc(socket).close()
            return Target(process, None, socket, log)
        if process.poll() is not None or time.monotonic() > limit:
            process.kill()
            process.wait()
            raise AssertionError(f"the target did not serve, code {process.returncode}\n{log.read_text()}")
        time.sleep(0.005)


@contextlib.contextmanager
def run(*options, folder, config=None, prefix=()):
    """`spindle run` for the length of a `with`; must end in order."""
    with ending(start_run(*options, folder=folder, config=config, prefix=prefix)) as target:
        yield target


def wait_for(what, condition, seconds=10):
    """Waits until a condition holds."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"{what}: not within {seconds} s"
        time.sleep(0.01)


@contextlib.contextmanager
def demo(*options, folder=None):
    """A target for the length of a `with`; must end in order."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spindle-e2e-"))
        with ending(start(*options, folder=folder)) as target:
            yield target


@contextlib.contextmanager
def ending(target):
    """Whatever happens, the target ends; if all was well, in order."""
    try:
        yield target
    except BaseException:
        target.process.kill()
        target.process.wait()
        print(target.log.read_text())
        raise
    if target.process.poll() is None:
        target.stop()
    else:
        raise AssertionError(f"the target ended by itself, code {target.process.returncode}\n{target.log.read_text()}")
