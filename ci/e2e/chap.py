#!/usr/bin/env python3
"""Who gets in: CHAP one-way and mutual, access lists, portals, digests, with libiscsi's tools as initiators."""

import contextlib
import json
import os
import pathlib
import socket as sockets
import subprocess
import sys
import tempfile

from initiator import Broken, Session
from target import RpcError, run

SECRET, TARGET_SECRET = "initiator-secret-1", "target-secret-22"
BASE = "iqn.2026-01.io.spindle"


def configuration(folder):
    """Secrets from files, as an operator would keep them."""
    for name, secret in [("in", SECRET), ("out", TARGET_SECRET)]:
        pathlib.Path(folder, name).write_text(secret + "\n")
        os.chmod(f"{folder}/{name}", 0o600)
    secret = {"user": "someone", "secret_file": f"{folder}/in", "muser": "thetarget", "msecret_file": f"{folder}/out"}
    here, maps = {"host": "127.0.0.1", "port": 0}, [{"pg_tag": 1, "ig_tag": 1}]
    calls = [
        ("bdev_malloc_create", {"name": "ram", "num_blocks": 65536, "block_size": 512}),
        ("iscsi_create_portal_group", {"tag": 1, "portals": [here, here, {"host": "[::1]", "port": 0}]}),
        ("iscsi_create_initiator_group", {"tag": 1, "initiators": ["ANY"], "netmasks": ["ANY"]}),
        ("iscsi_create_initiator_group", {"tag": 2, "initiators": ["!*:bad", "iqn.2026-01.org.example:*"], "netmasks": ["127.0.0.0/8"]}),
        ("iscsi_create_initiator_group", {"tag": 3, "initiators": ["ANY"], "netmasks": ["10.0.0.0/8"]}),
        ("iscsi_create_auth_group", {"tag": 1, "secrets": [secret]}),
    ]
    for name, rules in [
        ("open", {}), ("chap", {"chap_group": 1, "require_chap": True}),
        ("mutual", {"chap_group": 1, "require_chap": True, "mutual_chap": True}), ("either", {"chap_group": 1}),
        ("listed", {"pg_ig_maps": [{"pg_tag": 1, "ig_tag": 2}]}), ("elsewhere", {"pg_ig_maps": [{"pg_tag": 1, "ig_tag": 3}]}),
        ("digest", {"header_digest": True}),
    ]:
        calls.append(("iscsi_create_target_node", {"name": name, "pg_ig_maps": maps,
                                                   "luns": [{"bdev_name": "ram", "lun_id": 0}], **rules}))
    file = pathlib.Path(folder, "config.json")
    file.write_text(json.dumps({"subsystems": [{"subsystem": "all", "config": [{"method": m, "params": p} for m, p in calls]}]}))
    return file


def tool(url, name="iqn.2026-01.org.example:e2e"):
    """Debian's iscsi-inq: does it get in?"""
    done = subprocess.run(["iscsi-inq", "-i", name, url], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 or "Device Type" not in done.stdout
    return done.returncode == 0


def library(url, **how):
    """The same through the library, with data."""
    try:
        with Session(url, timeout=10, **how) as disk:
            disk.write(8, b"c" * 4096)
            assert disk.read(8, 8) == b"c" * 4096
        return True
    except Broken:
        return False


def expect(answer, wanted, what):
    assert answer == wanted, f"{what}: {'let in' if answer else 'refused'}"
    expect.count += 1


expect.count = 0


def main():
    with tempfile.TemporaryDirectory(prefix="spindle-chap-", dir=".") as folder:
        folder = str(pathlib.Path(folder).resolve())
        with run("--cores", "0-1", "--memory", "256M", folder=folder, config=configuration(folder)) as target:
            portals = target.call("iscsi_get_portal_groups")[0]["portals"]
            ports = [p["port"] for p in portals]
            assert len(set(ports)) == 3 and "0" not in ports, portals

            def url(name, user="", at=f"127.0.0.1:{ports[0]}", more=""):
                return f"iscsi://{user}{at}/{BASE}:{name}/0{more}"

            right, wrong, nobody = f"someone%{SECRET}@", f"someone%{SECRET[:-1]}2@", f"noone%{SECRET}@"
            for name, user, wanted in [("chap", right, True), ("chap", wrong, False), ("chap", nobody, False), ("chap", "", False),
                                       ("open", "", True), ("either", right, True), ("either", "", True), ("either", wrong, False),
                                       ("mutual", "", False), ("none", "", False), ("elsewhere", "", False)]:
                expect(tool(url(name, user)), wanted, f"iscsi-inq, {name}, {user or 'no user'}")
            both = f"?target_user=thetarget&target_password={TARGET_SECRET}"
            expect(tool(url("mutual", right, more=both)), True, "iscsi-inq, mutual CHAP")
            user = ("someone", SECRET)
            expect(library(url("chap"), chap=user), True, "CHAP")
            expect(library(url("chap"), chap=("someone", "not the secret at all")), False, "CHAP, wrong secret")
            expect(library(url("mutual"), chap=user, mutual=("thetarget", TARGET_SECRET)), True, "mutual CHAP")
            expect(library(url("mutual"), chap=user, mutual=("thetarget", "not its secret")), False, "mutual CHAP, wrong secret")
            expect(library(url("mutual"), chap=user, mutual=("another", TARGET_SECRET)), False, "mutual CHAP, wrong name")
            # A secret file that changes is read when the group is made anew; set_auth counts from the next login on.
            target.call("iscsi_target_node_set_auth", name="chap", chap_group=0)
            expect(library(url("chap")), True, "after CHAP was taken off")
            target.call("iscsi_target_node_set_auth", name="chap", chap_group=1, require_chap=True)
            expect(library(url("chap")), False, "after CHAP was put on again")
            # Names.
            for name, wanted in [("iqn.2026-01.org.example:good", True), ("iqn.2026-01.org.example:bad", False),
                                 ("iqn.2026-01.com.example:good", False), ("IQN.2026-01.ORG.EXAMPLE:GOOD", True)]:
                expect(tool(url("listed"), name=name), wanted, f"initiator {name}")
            # Portals: two of IPv4, one of IPv6; a list of what is behind each.
            expect(tool(url("open", at=f"127.0.0.1:{ports[1]}")), True, "second portal")
            expect(tool(url("open", at=f"[::1]:{ports[2]}")), True, "IPv6 portal")
            expect(library(url("open", at=f"[::1]:{ports[2]}")), True, "IPv6 portal, data")
            found = subprocess.run(["iscsi-ls", f"iscsi://127.0.0.1:{ports[0]}"], capture_output=True, text=True, timeout=30).stdout
            assert f"{BASE}:open" in found and f"{BASE}:elsewhere" not in found, f"discovery:\n{found}"
            assert all(f":{p}" in found for p in ports), f"discovery names every portal:\n{found}"
            # Who is told of targets at all.
            target.call("iscsi_set_discovery_auth", chap_group=1, require_chap=True)
            for user, wanted in [("", False), (wrong, False), (right, True)]:
                told = subprocess.run(["iscsi-ls", f"iscsi://{user}127.0.0.1:{ports[0]}"], capture_output=True, text=True, timeout=30)
                expect(f"{BASE}:open" in told.stdout, wanted, f"discovery, {user or 'no user'}")
            saved = target.call("save_config")
            calls = [c["method"] for s in saved["subsystems"] for c in s["config"] or []]
            assert calls.index("iscsi_create_auth_group") < calls.index("iscsi_set_discovery_auth"), calls
            target.call("iscsi_set_discovery_auth")
            # Digests.
            expect(library(url("open"), digest=True), True, "header digests")
            with Session(url("digest"), digest=True) as disk:
                disk.write(0, os.urandom(1 << 20))
                rows = target.call("iscsi_get_connections")
                assert [r["header_digest"] for r in rows] == [True], rows
            expect(library(url("digest"), digest=False), False, "no digest where one is required")
            expect(tool(url("digest", more="?header_digest=crc32c")), True, "iscsi-inq with header digests")
            # Beyond loopback only with a list, a secret, or the operator's word.
            target.call("iscsi_create_portal_group", tag=5, portals=[{"host": "0.0.0.0", "port": 0}])
            outside = [{"pg_tag": 5, "ig_tag": 1}]
            for name, rules, wanted in [("a", {}, False), ("b", {"chap_group": 1}, False), ("c", {"chap_group": 1, "require_chap": True}, True),
                                        ("d", {"pg_ig_maps": [{"pg_tag": 5, "ig_tag": 2}]}, True)]:
                taken = True
                try:
                    target.call("iscsi_create_target_node", name=name, **{"pg_ig_maps": outside, **rules})
                except RpcError as e:
                    taken = False
                    assert "allow_open_access" in e.message, e
                expect(taken, wanted, f"beyond loopback with {rules}")
            target.call("iscsi_create_portal_group", tag=6, portals=[{"host": "0.0.0.0", "port": 0}], allow_open_access=True)
            target.call("iscsi_create_target_node", name="e", pg_ig_maps=[{"pg_tag": 6, "ig_tag": 1}])
            # Somebody who connects and says nothing holds nobody up.
            with contextlib.ExitStack() as stack:
                for _ in range(50):
                    stack.enter_context(sockets.create_connection(("127.0.0.1", int(ports[0]))))
                expect(tool(url("open")), True, "beside fifty silent connections")
            told = target.log.read_text()
            assert SECRET not in told and TARGET_SECRET not in told, "a secret stands in the log"
            assert SECRET not in json.dumps(target.call("save_config")), "a secret from a file stands in the configuration"
    print(f"RESULT: {expect.count} logins let in or refused as they should be: CHAP, mutual CHAP, names, portals, IPv6, digests")


if __name__ == "__main__":
    main()
    sys.exit(0)
