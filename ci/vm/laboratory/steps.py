"""What a scenario is doing: written as it happens, so that one that hangs has said where."""
import sys
import threading
import time

_started = time.monotonic()
_lock = threading.Lock()
_last = {"step": "starting", "command": ""}


def _write(mark, text):
    with _lock:
        print(f"[{time.monotonic() - _started:7.2f}] {mark} {text}", flush=True)


def step(text):
    """A sentence about what comes now."""
    _last["step"] = text
    _write("##", text)


def command(machine, text):
    _last["command"] = f"{machine}: {text}"
    _write(f"{machine:>7} $", text if len(text) < 400 else text[:400] + " ...")


def output(result):
    """The output of a command, shortened."""
    for line in (result.out + result.err).splitlines()[-30:]:
        _write("       |", line[:300])
    if result.code:
        _write("       |", f"(exit code {result.code})")


def note(text):
    _write("      -", text)


def last():
    """The last step and the last command, for a report."""
    return f"step: {_last['step']}; last command: {_last['command']}"


def report(text):
    print(text, file=sys.stderr, flush=True)
