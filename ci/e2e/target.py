"""Starts `spindle demo` for a test and stops it again."""

import contextlib
import os
import pathlib
import signal
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = pathlib.Path(os.environ.get("SPINDLE_BINARY", ROOT / "target/release/spindle"))


class Target:
    """A running target: its address, its RPC socket, its process."""

    def __init__(self, process, url, socket, log):
        self.process, self.url, self.socket, self.log = process, url, socket, log

    def rpc(self, method, params=None):
        import json

        words = [BINARY, "rpc", "--socket", self.socket, method]
        if params is not None:
            words.append(json.dumps(params))
        return json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)

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


@contextlib.contextmanager
def demo(*options, folder=None):
    """A target for the length of a `with`; must end in order."""
    with contextlib.ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="spindle-e2e-"))
        target = start(*options, folder=folder)
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
