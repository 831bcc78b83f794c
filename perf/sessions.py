#!/usr/bin/env python3
"""What many idle sessions cost a target: memory of the process, memory of the kernel's sockets, processor time, wake-ups;
and how fast they log in.

Usage: perf/sessions.py [COUNT] [SECONDS]    SPINDLE_BINARY names another binary than target/release/spindle"""

import pathlib
import re
import resource
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "ci/e2e"))
from crowd import Crowd
from target import demo

COUNT, SECONDS = 10_000, 20
# What the kernel keeps for a socket of TCP; shared slabs may count others' objects too.
SLABS = ("TCP", "sock_inode_cache", "filp", "eventpoll_epi", "eventpoll_pwq", "tw_sock_TCP", "request_sock_TCP")


def cpu_seconds(pid):
    """Processor time of all threads, in nanoseconds' resolution."""
    tasks = pathlib.Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9


def sockets_kib():
    """Slabs of sockets, and the pages TCP has for data, of the whole machine: both ends of each session are on it."""
    try:
        rows = [row.split() for row in pathlib.Path("/proc/slabinfo").read_text().splitlines()[2:]]
    except PermissionError:
        return None
    slabs = sum(int(row[2]) * int(row[3]) for row in rows if row[0] in SLABS) // 1024
    pages = int(re.search(r"TCP:.* mem (\d+)", pathlib.Path("/proc/net/sockstat").read_text()).group(1))
    return slabs + pages * resource.getpagesize() // 1024


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else SECONDS
    with tempfile.TemporaryDirectory(prefix="spindle-sessions-") as folder:
        with demo("--size", "64M", "--memory", "512M", folder=folder) as target:
            pid = target.process.pid
            before, kernel = target.settled_kib(), sockets_kib()
            cpu, begin = cpu_seconds(pid), time.perf_counter()
            with Crowd(target.url, count) as crowd:
                took = time.perf_counter() - begin
                cpu = cpu_seconds(pid) - cpu
                after = target.resident_kib()
                print(f"{count} sessions logged in within {took:.1f} s ({count / took:.0f} a second, the generator included); "
                      f"{cpu / count * 1e6:.0f} µs of the target's processor time for each")
                print(f"resident: {before / 1024:.1f} MiB before, {after / 1024:.1f} MiB with them: "
                      f"{(after - before) / count:.2f} KiB a session with one connection and one LUN")
                if kernel is not None:
                    print(f"kernel, sockets: {(sockets_kib() - kernel) / count / 2:.2f} KiB an end of a connection")
                time.sleep(2)
                rows = target.call("framework_get_reactors")["reactors"]
                cpu, pings = cpu_seconds(pid), crowd.pings
                time.sleep(seconds)
                share = (cpu_seconds(pid) - cpu) / seconds * 100
                sleeps = [a["sleeps"] - b["sleeps"] for a, b in zip(target.call("framework_get_reactors")["reactors"], rows)]
                print(f"idle: {share:.3f} % of a core, {sum(sleeps) / seconds:.1f} wake-ups a second, "
                      f"{(crowd.pings - pings) / seconds:.1f} pings a second")
                left = len(target.call("iscsi_get_connections"))
                assert left == count, f"only {left} of {count} sessions are left"


main()
