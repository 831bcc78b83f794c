"""A shell in a guest, with a target beside it: python3 -m laboratory.shell KIND TARGET OUT."""
import os
import select
import sys
import termios
import threading
import tty
from pathlib import Path

from laboratory.lab import Lab
from laboratory.scenario import Scenario, Topology
from laboratory.world import World


def attach(machine):
    """The terminal here becomes a terminal there."""
    size = os.get_terminal_size()
    line = f"stty rows {size.lines} cols {size.columns}; cd; exec bash -i"
    frames = machine._request("execute", argv=["sh", "-c", line], env={"TERM": "xterm"}, terminal=True)
    before = termios.tcgetattr(0)
    tty.setraw(0)
    ended = threading.Event()

    def show():
        while True:
            kind, payload = frames.receive()
            if kind != b"O":
                ended.set()
                return
            os.write(1, payload)

    try:
        threading.Thread(target=show, daemon=True).start()
        while not ended.is_set():
            if select.select([0], [], [], 0.2)[0]:
                frames.send(b"I", os.read(0, 4096))
    finally:
        termios.tcsetattr(0, termios.TCSADRAIN, before)


def main():
    kind, target, out = sys.argv[1:]
    scenario = Scenario("shell", None, Topology(impaired=False), frozenset(), (kind,), 0, False, False, 2, 1024)
    world = World(scenario, kind, target, "1", Path(out))
    world.boot()
    lab = Lab(world)
    iqn = lab.serve(128)
    lab.initiator().discover(lab.portal())
    print(f"\nThe target serves {iqn} at {lab.portal()}. Log in: iscsiadm -m node --login. Leave: exit.\n", flush=True)
    attach(lab.guest)
    os._exit(0)


if __name__ == "__main__":
    main()
