"""Things made once, kept under the hash of what they are made from."""
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from laboratory.paths import RECIPES, cache


@dataclass(frozen=True)
class Made:
    """A folder that a recipe fills from input files; what the recipe may be told by the environment is input too."""

    name: str
    inputs: tuple
    environment: tuple = ()

    def key(self):
        digest = hashlib.sha256()
        for path in (RECIPES / self.name, *self.inputs):
            data = Path(path).read_bytes()
            digest.update(len(data).to_bytes(8, "big") + data)
        for variable in self.environment:
            digest.update(f"{variable}={os.environ.get(variable, '')}\n".encode())
        return digest.hexdigest()[:16]

    def folder(self):
        return cache() / f"{self.name}-{self.key()}"

    def ready(self):
        return self.folder().is_dir()

    def ensure(self):
        """The folder, made first if it must be. Two processes that want it make it once."""
        folder = self.folder()
        if folder.is_dir():
            return folder
        with open(cache() / f"{self.name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.is_dir():
                self._make(folder)
        return folder

    def _make(self, folder):
        scratch = cache() / f"{self.name}.making"
        log = cache() / f"{self.name}.log"
        shutil.rmtree(scratch, ignore_errors=True)
        (scratch / "out").mkdir(parents=True)
        started = time.monotonic()

        def say(text):
            print(f"lab: {self.name}: [{time.monotonic() - started:4.0f} s] {text}", file=sys.stderr, flush=True)

        command = [str(RECIPES / self.name), str(scratch / "out"), *map(str, self.inputs)]
        environment = {**os.environ, "JOBS": os.environ.get("JOBS", str(os.cpu_count()))}
        with open(log, "w") as record:
            process = subprocess.Popen(
                command, cwd=scratch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            )
            try:
                for line in process.stdout:
                    record.write(line)
                    if line.startswith("## "):
                        say(line[3:].strip())
            except BaseException:
                process.kill()
                process.wait()
                shutil.rmtree(scratch, ignore_errors=True)
                raise
        if process.wait() != 0:
            tail = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-25:])
            shutil.rmtree(scratch, ignore_errors=True)
            raise SystemExit(f"lab: {self.name} failed; the end of {log}:\n{tail}")
        (scratch / "out").rename(folder)
        shutil.rmtree(scratch)
        for older in cache().glob(f"{self.name}-*"):
            if older != folder:
                shutil.rmtree(older, ignore_errors=True)
        say("done")
