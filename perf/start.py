#!/usr/bin/env python3
"""How long a target takes to start, and how much memory it is resident in: by size of a RAM disk, with a thousand LUNs,
and by session.

Usage: perf/start.py [ROUNDS]     SPINDLE_BINARY names another binary than target/release/spindle"""

import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "ci/e2e"))
from initiator import Broken, Session
from target import start, start_run

LUNS = 1000
SESSIONS = 500


def to_first_login(launch):
    """Milliseconds from launch to a login that was answered; the target; its session."""
    begin = time.perf_counter()
    target, url = launch()
    while True:
        try:
            session = Session(url)
            return (time.perf_counter() - begin) * 1e3, target, session
        except Broken:
            assert target.process.poll() is None, target.log.read_text()
            time.sleep(0.001)


def disk_of(size):
    def launch():
        folder = tempfile.mkdtemp(prefix="spindle-start-")
        target = start("--size", size, "--memory", "6G", folder=folder)
        return target, target.url
    return launch


def many_luns(port):
    calls = [("iscsi_create_portal_group", {"tag": 1, "portals": [{"host": "127.0.0.1", "port": str(port)}]}),
             ("iscsi_create_initiator_group", {"tag": 1, "initiators": ["ANY"], "netmasks": ["ANY"]})]
    for n in range(LUNS):
        method, blocks = ("bdev_null_create", 1 << 21) if n % 2 else ("bdev_malloc_create", 2048)
        calls.append((method, {"name": f"d{n}", "num_blocks": blocks, "block_size": 512}))
    luns = [{"bdev_name": f"d{n}", "lun_id": n} for n in range(LUNS)]
    target = {"name": "many", "pg_ig_maps": [{"pg_tag": 1, "ig_tag": 1}], "luns": luns}
    calls.append(("iscsi_create_target_node", target))
    config = [{"subsystem": "all", "config": [{"method": m, "params": p} for m, p in calls]}]

    def launch():
        folder = pathlib.Path(tempfile.mkdtemp(prefix="spindle-start-"))
        file = folder / "config.json"
        file.write_text(json.dumps({"subsystems": config}))
        target = start_run("--memory", "2G", folder=folder, config=file, wait=False)
        return target, f"iscsi://127.0.0.1:{port}/iqn.2026-01.io.spindle:many/0"
    return launch


def measured(name, launch, rounds):
    times = []
    for _ in range(rounds):
        ms, target, session = to_first_login(launch)
        times.append(ms)
        memory = target.settled_kib()
        session.close()
        target.stop()
    print(f"| {name} | {statistics.median(times):.0f} ms | {min(times):.0f} to {max(times):.0f} | {memory // 1024} MiB |")
    return memory


def sessions():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    _, target, first = to_first_login(disk_of("64M"))
    before = target.settled_kib()
    others = [Session(target.url, name=f"iqn.2026-01.org.example:{n}") for n in range(SESSIONS)]
    each = (target.resident_kib() - before) * 1024 / SESSIONS
    for session in (first, *others):
        session.close()
    target.stop()
    print(f"\nA session with one LUN: {each / 1024:.1f} KiB resident, over {SESSIONS}")


def main():
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    print("| | to the first login | | resident |\n|---|---:|---|---:|")
    small = measured("RAM disk of 64 MiB", disk_of("64M"), rounds)
    measured("RAM disk of 4 GiB", disk_of("4G"), rounds)
    many = measured(f"{LUNS} LUNs, half null, half RAM of 1 MiB", many_luns(38260), rounds)
    print(f"\nA LUN: {(many - small) / LUNS:.1f} KiB resident, over {LUNS}, on all cores together")
    sessions()


main()
