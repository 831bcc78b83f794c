#!/usr/bin/env python3
"""The control plane from outside: every method, changes under load, refusals that name the field and leave nothing."""

import concurrent.futures
import contextlib
import json
import os
import pathlib
import socket as sockets
import stat
import subprocess
import sys
import tempfile
import threading
import time

import initiator
from initiator import Session
from target import BINARY, Rpc, RpcError, run, wait_for

MIB = 1 << 20
called = set()
checks = 0
failures = []


class Calls(Rpc):
    """Notes which methods were called."""

    def call(self, method, **params):
        called.add(method)
        return super().call(method, **params)


def check(condition, what):
    """One statement about the target. What does not hold is noted, so that one run tells everything."""
    global checks
    checks += 1
    if not condition:
        caller = sys._getframe(1)
        caller = caller.f_back if caller.f_code.co_name == "refused" else caller
        failures.append(f"{pathlib.Path(__file__).name}:{caller.f_lineno}: {what}")
        print("FAILED " + failures[-1], flush=True)


def refused(rpc, field, method, **params):
    """The call is refused; the error names the field (`None`: it is no matter of one field)."""
    before = rpc.call("save_config")
    words = f"{method} {json.dumps(params)[:200]}"
    try:
        answer = rpc.call(method, **params)
    except RpcError as e:
        named = (e.data or {}).get("field")
        check(named == field, f"{words}: {e} names {named!r}, not {field!r}")
        check(field is None or field in e.message, f"{words}: {e}: the message does not name {field}")
        check(rpc.call("save_config") == before, f"{words}: something half-applied stays")
        return e
    check(False, f"{words} was taken: {answer}")
    return RpcError({"code": 0, "message": "taken"})


def free_port(family=sockets.AF_INET, host="127.0.0.1"):
    with sockets.socket(family) as s:
        s.bind((host, 0))
        return s.getsockname()[1]


def listening(port):
    with contextlib.suppress(OSError):
        sockets.create_connection(("127.0.0.1", port), timeout=2).close()
        return True
    return False


def open_files(target, path):
    """How often a process has a file open."""
    count = 0
    for fd in pathlib.Path(f"/proc/{target.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            count += os.readlink(fd) == str(pathlib.Path(path).resolve())
    return count


def bdevs(rpc, folder):
    # RAM.
    check(rpc.call("bdev_malloc_create", name="ram", num_blocks=64 * 2048, block_size=512) == "ram", "name of a RAM disk")
    check(rpc.call("bdev_malloc_create", num_blocks=1024, block_size=4096) == "Malloc0", "name of a nameless RAM disk")
    check(rpc.call("bdev_malloc_create", num_blocks=1024, block_size=4096) == "Malloc1", "name of the next")
    for field, params in [
        ("num_blocks", dict(name="x", block_size=512)),
        ("block_size", dict(name="x", num_blocks=8)),
        ("block_size", dict(name="x", num_blocks=8, block_size=520)),
        ("block_size", dict(name="x", num_blocks=8, block_size="512")),
        ("num_blocks", dict(name="x", num_blocks=0, block_size=512)),
        ("num_blocks", dict(name="x", num_blocks=-1, block_size=512)),
        ("num_blocks", dict(name="x", num_blocks=1 << 60, block_size=512)),
        ("colour", dict(name="x", num_blocks=8, block_size=512, colour="red")),
        ("name", dict(name="", num_blocks=8, block_size=512)),
        ("name", dict(name="x" * 256, num_blocks=8, block_size=512)),
        ("name", dict(name="a\nb", num_blocks=8, block_size=512)),
        ("physical_block_size", dict(name="x", num_blocks=8, block_size=4096, physical_block_size=512)),
        ("uuid", dict(name="x", num_blocks=8, block_size=512, uuid="no")),
    ]:
        refused(rpc, field, "bdev_malloc_create", **params)
    check(refused(rpc, None, "bdev_malloc_create", name="ram", num_blocks=8, block_size=512).code == -17, "EEXIST")
    e = refused(rpc, None, "bdev_malloc_create", name="huge", num_blocks=1 << 40, block_size=512)
    check("--memory" in e.message or "memory" in e.message, f"a RAM disk that does not fit: {e}")
    # Null.
    check(rpc.call("bdev_null_create", name="null", num_blocks=2048, block_size=4096) == "null", "name of a null device")
    refused(rpc, "block_size", "bdev_null_create", name="x", num_blocks=8, block_size=7)
    refused(rpc, "name", "bdev_null_create", num_blocks=8, block_size=512)
    # Files.
    for method, name in [("bdev_aio_create", "aio"), ("bdev_uring_create", "uring")]:
        path = f"{folder}/{name}.disk"
        refused(rpc, "filename", method, name=name, filename=path)
        check(rpc.call(method, name=name, filename=path, create_bytes=64 * MIB) == name, f"name of {name}")
        status = os.stat(path)
        check(status.st_size == 64 * MIB and status.st_blocks < 2048, f"{name} is sparse")
        check(stat.S_IMODE(status.st_mode) == 0o600, "a new disk is its owner's alone")
        e = refused(rpc, "uuid", method, name="second", filename=path)
        check(name in e.message, f"the same file twice: {e}")
        other = "bdev_uring_create" if "aio" in method else "bdev_aio_create"
        e = refused(rpc, None, other, name="second", filename=path, uuid="11111111-2222-8333-8444-555555555555")
        check("another" in e.message and path in e.message, f"the same file twice, under another identity: {e}")
        refused(rpc, "cache", method, name="x", filename=path, cache="write_around")
        refused(rpc, "filename", method, name="x", filename=str(folder))
        refused(rpc, "filename", method, name="x", filename="/dev/zero")
        refused(rpc, "filename", method, name="x", filename=f"{folder}/none/disk", create_bytes=MIB)
        refused(rpc, "create_bytes", method, name="x", filename=f"{folder}/new", create_bytes=100)
        refused(rpc, "block_size", method, name="x", filename=f"{folder}/new", create_bytes=MIB, block_size=2048)
        check(not os.path.exists(f"{folder}/new"), "a refused disk leaves no file")
    # Listing.
    names = [b["name"] for b in rpc.call("bdev_get_bdevs")]
    check(names == ["Malloc0", "Malloc1", "aio", "null", "ram", "uring"], f"bdev_get_bdevs: {names}")
    one, = rpc.call("bdev_get_bdevs", name="uring")
    check(one["num_blocks"] == 64 * 2048 and one["block_size"] == 512 and not one["claimed"], f"a device: {one}")
    check(one["driver_specific"]["engine"] in ("io_uring", "threads"), f"a device: {one}")
    check(refused(rpc, None, "bdev_get_bdevs", name="nobody").code == -19, "ENODEV")
    # Sizes.
    for method, name in [("bdev_malloc_resize", "ram"), ("bdev_null_resize", "null"), ("bdev_aio_resize", "aio"),
                         ("bdev_uring_resize", "uring")]:
        rpc.call(method, name=name, new_size=96)
        one, = rpc.call("bdev_get_bdevs", name=name)
        check(one["num_blocks"] * one["block_size"] == 96 * MIB, f"{method}: {one}")
        rpc.call(method, name=name, num_blocks=16 * MIB // one["block_size"])
        check(rpc.call("bdev_get_bdevs", name=name)[0]["num_blocks"] * one["block_size"] == 16 * MIB, f"{method} in blocks")
        for field, size in [("new_size", {}), ("new_size", dict(new_size=0)), ("new_size", dict(new_size=1, num_blocks=1)),
                            ("num_blocks", dict(num_blocks=0)), ("new_size", dict(new_size=1 << 63))]:
            refused(rpc, field, method, name=name, **size)
        refused(rpc, None, method, name="nobody", new_size=1)
    refused(rpc, "name", "bdev_malloc_resize", name="uring", new_size=1)
    check(os.stat(f"{folder}/uring.disk").st_size == 16 * MIB, "a resized file has its size")
    for method, name in [("bdev_aio_rescan", "aio"), ("bdev_uring_rescan", "uring")]:
        os.truncate(f"{folder}/{name}.disk", 32 * MIB)
        rpc.call(method, name=name)
        check(rpc.call("bdev_get_bdevs", name=name)[0]["num_blocks"] == 32 * 2048, method)
        refused(rpc, None, method, name="nobody")
    refused(rpc, "name", "bdev_uring_rescan", name="ram")
    # Deleting.
    refused(rpc, "name", "bdev_malloc_delete", name="null")
    refused(rpc, "name", "bdev_null_delete", name="ram")
    for method, name in [("bdev_malloc_delete", "Malloc1"), ("bdev_null_delete", "null"), ("bdev_aio_delete", "aio"),
                         ("bdev_uring_delete", "uring"), ("bdev_malloc_delete", "Malloc0")]:
        rpc.call(method, name=name)
        refused(rpc, None, method, name=name)
    check([b["name"] for b in rpc.call("bdev_get_bdevs")] == ["ram"], "deleted devices are gone")
    # What was deleted can be opened again: the file is free.
    rpc.call("bdev_aio_create", name="disk", filename=f"{folder}/uring.disk")


def groups(rpc, target):
    taken = sockets.create_server(("127.0.0.1", 0))
    free, busy = free_port(), taken.getsockname()[1]
    e = refused(rpc, "portals[1]", "iscsi_create_portal_group", tag=1,
                portals=[{"host": "127.0.0.1", "port": str(free)}, {"host": "127.0.0.1", "port": str(busy)}])
    check("in use" in e.message.lower(), f"a taken port: {e}")
    check(not listening(free), "of a refused portal group nothing listens")
    taken.close()
    portals = [{"host": "127.0.0.1", "port": "0"}, {"host": "[::1]", "port": 0}]
    rpc.call("iscsi_create_portal_group", tag=1, portals=portals)
    group, = rpc.call("iscsi_get_portal_groups")
    port = int(group["portals"][0]["port"])
    check(port != 0 and listening(port) and group["portals"][1]["host"] == "::1", f"portals: {group}")
    for field, params in [
        ("portals", dict(tag=2)), ("tag", dict(portals=portals)), ("tag", dict(tag=0, portals=portals)),
        ("tag", dict(tag=65536, portals=portals)), ("portals", dict(tag=2, portals=[])),
        ("portals[0].host", dict(tag=2, portals=[{"host": "example"}])),
        ("portals[0].port", dict(tag=2, portals=[{"host": "::1", "port": "70000"}])),
        ("portals[0].hots", dict(tag=2, portals=[{"hots": "::1"}])),
        ("portals[1].host", dict(tag=2, portals=[{"host": "::1", "port": 0}, {"port": 0}])),
        ("portals[0]", dict(tag=2, portals=[{"host": "192.0.2.1", "port": 0}])),
    ]:
        refused(rpc, field, "iscsi_create_portal_group", **params)
    check(refused(rpc, None, "iscsi_create_portal_group", tag=1, portals=portals).code == -17, "EEXIST")
    rpc.call("iscsi_create_portal_group", tag=9, portals=[{"host": "127.0.0.1", "port": free}], private=True)
    check(listening(free), "a second portal group listens")
    rpc.call("iscsi_delete_portal_group", tag=9)
    check(not listening(free), "a deleted portal group does not listen")
    refused(rpc, None, "iscsi_delete_portal_group", tag=9)

    rpc.call("iscsi_create_initiator_group", tag=1, initiators=["ANY"], netmasks=["ANY"])
    rpc.call("iscsi_create_initiator_group", tag=2, initiators=["iqn.2026-01.org.example:*"], netmasks=["127.0.0.0/8", "[::1]"])
    for field, params in [
        ("tag", dict(initiators=[], netmasks=[])), ("initiators", dict(tag=3, netmasks=[])),
        ("initiators[1]", dict(tag=3, initiators=["ANY", "a b"], netmasks=[])),
        ("initiators[0]", dict(tag=3, initiators=["!"], netmasks=[])),
        ("initiators[0]", dict(tag=3, initiators=["x" * 224], netmasks=[])),
        ("netmasks[0]", dict(tag=3, initiators=["ANY"], netmasks=["10.0.0.0/33"])),
        ("netmasks[0]", dict(tag=3, initiators=["ANY"], netmasks=["localnet"])),
        ("netmasks[0]", dict(tag=3, initiators=["ANY"], netmasks=["localhost"])),
        ("netmasks[0]", dict(tag=3, initiators=["ANY"], netmasks=["[10.0.0.1]"])),
    ]:
        refused(rpc, field, "iscsi_create_initiator_group", **params)
    refused(rpc, None, "iscsi_create_initiator_group", tag=1, initiators=[], netmasks=[])
    rpc.call("iscsi_initiator_group_add_initiators", tag=2, initiators=["iqn.2026-01.com.example:other"], netmasks=["10.0.0.0/8"])
    check(len(rpc.call("iscsi_get_initiator_groups")[1]["initiators"]) == 2, "an added initiator")
    refused(rpc, "initiators[2]", "iscsi_initiator_group_add_initiators", tag=2, initiators=["a b"], netmasks=[])
    refused(rpc, None, "iscsi_initiator_group_add_initiators", tag=7, initiators=[], netmasks=[])
    rpc.call("iscsi_initiator_group_remove_initiators", tag=2, initiators=["iqn.2026-01.com.example:other"], netmasks=["10.0.0.0/8"])
    check(len(rpc.call("iscsi_get_initiator_groups")[1]["netmasks"]) == 2, "a removed netmask")

    secret = {"user": "someone", "secret": "a secret of enough bytes"}
    rpc.call("iscsi_create_auth_group", tag=1, secrets=[secret])
    check("a secret" not in json.dumps(rpc.call("iscsi_get_auth_groups")), "secrets are not shown")
    for field, params in [
        ("tag", dict(tag=0)), ("secrets[0].secret", dict(tag=2, secrets=[{"user": "u"}])),
        ("secrets[0].secret", dict(tag=2, secrets=[{"user": "u", "secret": "short"}])),
        ("secrets[1].user", dict(tag=2, secrets=[secret, {"secret": "a secret of enough bytes"}])),
        ("secrets[0].muser", dict(tag=2, secrets=[{**secret, "muser": "target"}])),
        ("secrets[0].msecret", dict(tag=2, secrets=[{**secret, "muser": "t", "msecret": secret["secret"]}])),
        ("secrets[0].secret", dict(tag=2, secrets=[{"user": "u", "secret_file": "/nonexistent"}])),
    ]:
        refused(rpc, field, "iscsi_create_auth_group", **params)
    refused(rpc, None, "iscsi_create_auth_group", tag=1)
    rpc.call("iscsi_create_auth_group", tag=2)
    rpc.call("iscsi_delete_auth_group", tag=2)
    refused(rpc, None, "iscsi_delete_auth_group", tag=2)
    return port


def targets(rpc, target, folder):
    maps = [{"pg_tag": 1, "ig_tag": 1}]
    lun = {"bdev_name": "ram", "lun_id": 0}
    for field, params in [
        ("name", dict(pg_ig_maps=maps)), ("pg_ig_maps", dict(name="t")), ("name", dict(name="a b", pg_ig_maps=maps)),
        ("name", dict(name="iqn." + "x" * 220, pg_ig_maps=maps)),
        ("pg_ig_maps[0].pg_tag", dict(name="t", pg_ig_maps=[{"pg_tag": 5, "ig_tag": 1}])),
        ("pg_ig_maps[1].ig_tag", dict(name="t", pg_ig_maps=[*maps, {"pg_tag": 1, "ig_tag": 5}])),
        ("queue_depth", dict(name="t", pg_ig_maps=maps, queue_depth=0)),
        ("chap_group", dict(name="t", pg_ig_maps=maps, chap_group=5)),
        ("chap_group", dict(name="t", pg_ig_maps=maps, require_chap=True)),
        ("mutual_chap", dict(name="t", pg_ig_maps=maps, mutual_chap=True)),
        ("disable_chap", dict(name="t", pg_ig_maps=maps, chap_group=1, require_chap=True, disable_chap=True)),
        ("alias_name", dict(name="t", pg_ig_maps=maps, alias_name="x" * 256)),
        ("luns[0].bdev_name", dict(name="t", pg_ig_maps=maps, luns=[{"bdev_name": "nobody", "lun_id": 0}])),
        ("luns[1].lun_id", dict(name="t", pg_ig_maps=maps, luns=[lun, {"bdev_name": "disk", "lun_id": 16384}])),
        ("luns[1].lun_id", dict(name="t", pg_ig_maps=maps, luns=[lun, {"bdev_name": "disk"}])),
    ]:
        refused(rpc, field, "iscsi_create_target_node", **params)
    # A bad second LUN: the first one's unit is closed again.
    before = open_files(target, f"{folder}/uring.disk")
    disk = {"bdev_name": "disk", "lun_id": 0}
    refused(rpc, None, "iscsi_create_target_node", name="t", pg_ig_maps=maps, luns=[disk, {**disk, "bdev_name": "ram"}])
    check(open_files(target, f"{folder}/uring.disk") == before, "of a refused target no unit stays open")
    check(not rpc.call("bdev_get_bdevs", name="disk")[0]["claimed"], "of a refused target no device stays claimed")

    rpc.call("iscsi_create_target_node", name="t", pg_ig_maps=maps, luns=[lun], alias_name="for tests", queue_depth=32)
    refused(rpc, None, "iscsi_create_target_node", name="T", pg_ig_maps=maps)
    node, = rpc.call("iscsi_get_target_nodes")
    check(node["name"].endswith(":t") and node["luns"] == [lun], f"a target: {node}")
    check(rpc.call("iscsi_get_target_nodes", name="t") == [node], "one target by the short form of its name")
    check(refused(rpc, None, "bdev_malloc_delete", name="ram").code == -16, "EBUSY")
    check(refused(rpc, None, "iscsi_delete_portal_group", tag=1).code == -16, "EBUSY")
    check(refused(rpc, None, "iscsi_delete_initiator_group", tag=1).code == -16, "EBUSY")
    rpc.call("iscsi_target_node_add_pg_ig_maps", name="t", pg_ig_maps=[{"pg_tag": 1, "ig_tag": 2}])
    refused(rpc, "pg_ig_maps[0]", "iscsi_target_node_add_pg_ig_maps", name="t", pg_ig_maps=maps)
    refused(rpc, "pg_ig_maps[0]", "iscsi_target_node_remove_pg_ig_maps", name="t", pg_ig_maps=[{"pg_tag": 1, "ig_tag": 9}])
    rpc.call("iscsi_target_node_remove_pg_ig_maps", name="t", pg_ig_maps=[{"pg_tag": 1, "ig_tag": 2}])
    rpc.call("iscsi_target_node_set_auth", name="t", chap_group=1, require_chap=True)
    check(refused(rpc, None, "iscsi_delete_auth_group", tag=1).code == -16, "EBUSY")
    refused(rpc, "chap_group", "iscsi_target_node_set_auth", name="t", chap_group=4)
    refused(rpc, "chap_group", "iscsi_set_discovery_auth", chap_group=4)
    refused(rpc, "chap_group", "iscsi_set_discovery_auth", require_chap=True)
    refused(rpc, "mutual_chap", "iscsi_set_discovery_auth", chap_group=1, mutual_chap=True)
    rpc.call("iscsi_target_node_set_auth", name="t")
    rpc.call("iscsi_set_discovery_auth", chap_group=1)
    check("discovery" in refused(rpc, None, "iscsi_delete_auth_group", tag=1).message, "discovery uses the group")
    rpc.call("iscsi_set_discovery_auth")
    refused(rpc, None, "iscsi_target_node_set_auth", name="nobody")
    rpc.call("iscsi_target_node_set_auth", name="t")
    # A target open to anybody is not served beyond loopback, by whichever door it would come to that.
    rpc.call("iscsi_create_portal_group", tag=7, portals=[{"host": "0.0.0.0", "port": 0}])
    refused(rpc, "pg_ig_maps", "iscsi_create_target_node", name="open", pg_ig_maps=[{"pg_tag": 7, "ig_tag": 1}])
    rpc.call("iscsi_create_initiator_group", tag=3, initiators=["iqn.2026-01.org.example:one"], netmasks=["ANY"])
    rpc.call("iscsi_create_target_node", name="closed", pg_ig_maps=[{"pg_tag": 7, "ig_tag": 3}])
    e = refused(rpc, "initiators", "iscsi_initiator_group_add_initiators", tag=3, initiators=["ANY"], netmasks=[])
    check("closed" in e.message, f"a group that would open a target: {e}")
    refused(rpc, "pg_ig_maps", "iscsi_target_node_add_pg_ig_maps", name="closed", pg_ig_maps=[{"pg_tag": 7, "ig_tag": 1}])
    rpc.call("iscsi_delete_target_node", name="closed")
    rpc.call("iscsi_delete_portal_group", tag=7)
    rpc.call("iscsi_delete_initiator_group", tag=3)
    refused(rpc, None, "iscsi_delete_initiator_group", tag=3)
    refused(rpc, None, "iscsi_delete_target_node", name="closed")
    return node["name"]


def decorators(rpc, url, name):
    """Slow and failing devices in front of others."""
    rpc.call("bdev_malloc_create", name="z-base", num_blocks=2048, block_size=512)
    check(rpc.call("bdev_error_create", base_name="z-base", name="m-error") == "m-error", "name of a failing device")
    # Its name comes before those of the devices behind it: a saved configuration must make those first.
    check(rpc.call("bdev_delay_create", name="a-slow", base_bdev_name="m-error", delay_us=0) == "a-slow", "name of a slow device")
    for field, method, params in [
        ("base_bdev_name", "bdev_delay_create", dict(name="x", base_bdev_name="nobody", delay_us=1)),
        ("base_bdev_name", "bdev_delay_create", dict(name="x", base_bdev_name="m-error", delay_us=1)),
        ("base_bdev_name", "bdev_delay_create", dict(name="x", base_bdev_name="ram", delay_us=1)),
        ("delay_us", "bdev_delay_create", dict(name="x", base_bdev_name="z-base", delay_us="long")),
        ("base_name", "bdev_error_create", dict(base_name="nobody")), ("base_name", "bdev_error_create", dict(base_name="z-base")),
        ("io_type", "bdev_error_inject_error", dict(name="m-error", io_type="everything")),
        ("error_type", "bdev_error_inject_error", dict(name="m-error", io_type="read", error_type="bad luck")),
        ("name", "bdev_delay_set", dict(name="ram", delay_us=1)), ("name", "bdev_error_delete", dict(name="a-slow")),
    ]:
        refused(rpc, field, method, **params)
    check(refused(rpc, None, "bdev_malloc_delete", name="z-base").code == -16, "EBUSY of a device behind another")
    rpc.call("iscsi_target_node_add_lun", name=name, bdev_name="a-slow", lun_id=9)
    with Session(url) as disk:
        disk.attentions()
        disk.attentions(lun=9)
        disk.write(0, b"d" * 512, lun=9)
        rpc.call("bdev_error_inject_error", name="m-error", io_type="read", error_type="failure", num=1)
        answer = disk.command(b"\x28" + bytes(7) + b"\1\0", read=512, lun=9)
        check(answer.sense == (initiator.MEDIUM_ERROR, 0x1100), f"an injected error: {answer.sense}")
        check(disk.read(0, 1, lun=9) == b"d" * 512, "after it")
        rpc.call("bdev_delay_set", name="a-slow", delay_us=200_000)
        start = time.monotonic()
        check(disk.read(0, 1, lun=9) == b"d" * 512 and time.monotonic() - start > 0.19, "a slow device is slow")
        rpc.call("bdev_error_inject_error", name="m-error", io_type="flush", error_type="failure", num=1)
        start = time.monotonic()
        disk.sync(lun=9, immed=True)
        check(time.monotonic() - start < 0.15, "IMMED does not wait for a slow flush")
        time.sleep(0.4)
        answer = disk.ready(lun=9)
        told = (answer.deferred, answer.sense)
        check(told == (True, (initiator.MEDIUM_ERROR, 0x0C00)), f"a flush that failed behind IMMED: {told}")
        check(disk.ready(lun=9).status == 0, "it is told once")
        rpc.call("bdev_delay_set", name="a-slow", delay_us=0)
    check(refused(rpc, None, "bdev_delay_delete", name="a-slow").code == -16, "EBUSY")
    rpc.call("iscsi_target_node_remove_lun", name=name, lun_id=9)
    rpc.call("bdev_delay_delete", name="a-slow")
    rpc.call("bdev_error_delete", name="m-error")
    rpc.call("bdev_malloc_delete", name="z-base")
    # Stay for the saved configuration.
    rpc.call("bdev_malloc_create", name="z-base", num_blocks=2048, block_size=512)
    rpc.call("bdev_error_create", base_name="z-base", name="m-error")
    rpc.call("bdev_delay_create", name="a-slow", base_bdev_name="m-error", delay_us=0)
    check(len(rpc.call("spindle_get_trace", last=4)) == 2, "the flight recorder of two cores")


class Load:
    """Writes and reads back on LUN 0 in threads of their own, until told to stop."""

    def __init__(self, url, threads=2):
        self.stop, self.failed, self.done = threading.Event(), [], [0] * threads
        self.threads = [threading.Thread(target=self.work, args=(url, i)) for i in range(threads)]
        for thread in self.threads:
            thread.start()

    def work(self, url, number):
        try:
            with Session(url, name=f"iqn.2026-01.org.example:load-{number}") as disk:
                turn = 0
                while not self.stop.is_set():
                    turn += 1
                    lba = 4096 + 64 * (turn % 64) + 16 * number
                    data = bytes([turn & 0xFF, number]) * (16 * 256)
                    self.retry(disk, lambda: disk.write(lba, data))
                    got = self.retry(disk, lambda: disk.read(lba, 16))
                    assert got == data, f"block {lba} came back different"
                    self.done[number] += 1
        except Exception as e:
            self.failed.append(e)

    def retry(self, disk, what):
        for _ in range(32):
            try:
                return what()
            except initiator.Check as e:
                # A unit attention tells of a change and the command was not run.
                if e.answer.key != initiator.UNIT_ATTENTION:
                    raise
        raise AssertionError("unit attentions without end")

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        if self.failed:
            raise self.failed[0]
        assert all(self.done), f"no load: {self.done}"
        return sum(self.done)


def under_load(rpc, target, url, name):
    load = Load(url)
    wait_for("load", lambda: all(load.done) or load.failed)
    with Session(url) as disk:
        disk.attentions()
        check(disk.luns() == [0], "one LUN")
        check(disk.ready(lun=5).sense == (initiator.ILLEGAL_REQUEST, initiator.LUN_NOT_SUPPORTED), "no such LUN")
        for turn in range(5):
            check(rpc.call("iscsi_target_node_add_lun", name=name, bdev_name="disk", lun_id=5) == 5, "number of a LUN")
            check(initiator.LUNS_CHANGED in disk.attentions(), "REPORTED LUNS DATA HAS CHANGED after adding")
            check(disk.luns() == [0, 5], "two LUNs")
            disk.attentions(lun=5)
            check(disk.capacity(lun=5) == (32 * 2048, 512), "capacity of the new LUN")
            disk.write(7, bytes([turn]) * 512, lun=5)
            check(disk.read(7, 1, lun=5) == bytes([turn]) * 512, "the new LUN")
            rpc.call("bdev_aio_resize", name="disk", new_size=40)
            check(disk.attentions(lun=5) == [initiator.CAPACITY_CHANGED], "CAPACITY DATA HAS CHANGED")
            check(disk.capacity(lun=5) == (40 * 2048, 512), "capacity after growing")
            rpc.call("bdev_aio_resize", name="disk", new_size=32)
            check(disk.attentions(lun=5) == [initiator.CAPACITY_CHANGED], "CAPACITY DATA HAS CHANGED")
            answer = disk.command(b"\x28\0" + (39 * 2048).to_bytes(4, "big") + b"\0\0\1\0", read=512, lun=5)
            check(answer.sense == (initiator.ILLEGAL_REQUEST, initiator.OUT_OF_RANGE), "beyond the new end")
            rpc.call("iscsi_target_node_remove_lun", name=name, lun_id=5)
            check(initiator.LUNS_CHANGED in disk.attentions(), "REPORTED LUNS DATA HAS CHANGED after removing")
            check(disk.ready(lun=5).sense == (initiator.ILLEGAL_REQUEST, initiator.LUN_NOT_SUPPORTED), "the LUN is gone")
        # A LUN that is loaded grows and shrinks.
        for size in (80, 16):
            rpc.call("bdev_malloc_resize", name="ram", new_size=size)
            check(initiator.CAPACITY_CHANGED in disk.attentions(), "CAPACITY DATA HAS CHANGED under load")
            check(disk.capacity()[0] == size * 2048, "capacity under load")
        # Read-only through one LUN, writable through the other.
        check(rpc.call("iscsi_target_node_add_lun", name=name, bdev_name="ram", read_only=True) == 1, "lowest free number")
        disk.attentions()
        disk.attentions(lun=1)
        disk.write(1, b"w" * 512)
        check(disk.read(1, 1, lun=1) == b"w" * 512, "one device through two LUNs")
        try:
            disk.write(1, b"x" * 512, lun=1)
            check(False, "a write through a read-only LUN")
        except initiator.Check as e:
            check(e.answer.sense == (initiator.DATA_PROTECT, initiator.WRITE_PROTECTED), f"a write through a read-only LUN: {e}")
        rpc.call("iscsi_target_node_remove_lun", name=name, lun_id=1)
        for field, params in [("bdev_name", dict(name=name, bdev_name="nobody")), (None, dict(name="nobody", bdev_name="ram")),
                              ("lun_id", dict(name=name, bdev_name="ram", lun_id=16384)),
                              ("lun_id", dict(name=name, bdev_name="ram", lun_id=-1)),
                              (None, dict(name=name, bdev_name="ram", lun_id=0))]:
            refused(rpc, field, "iscsi_target_node_add_lun", **params)
        refused(rpc, None, "iscsi_target_node_remove_lun", name=name, lun_id=77)
        refused(rpc, "lun_id", "iscsi_target_node_remove_lun", name=name)
        # What there is to see.
        rows = rpc.call("iscsi_get_connections")
        check(len(rows) == 3 and {r["target_node_name"] for r in rows} == {name}, f"connections: {rows}")
        row = next(r for r in rows if r["initiator_name"].endswith(":e2e"))
        disk.attentions()
        for core in (1 - row["lcore_id"], row["lcore_id"]):
            check(rpc.call("iscsi_move_session", tsih=row["tsih"], core=core) is True, "a session moves")
            place, = [r["lcore_id"] for r in rpc.call("iscsi_get_connections") if r["tsih"] == row["tsih"]]
            check(place == core, f"the session is on core {place}, not {core}")
            check(disk.read(1, 1) == b"w" * 512 and disk.ready().status == 0, "it goes on without a word")
        refused(rpc, "core", "iscsi_move_session", tsih=row["tsih"], core=2)
        refused(rpc, None, "iscsi_move_session", tsih=65000, core=0)
        stats, = rpc.call("bdev_get_iostat", name="ram")["bdevs"]
        check(stats["num_write_ops"] > 0 and stats["bytes_read"] > 0, f"statistics: {stats}")
        check(len(rpc.call("bdev_get_iostat")["bdevs"]) == 2, "statistics of all")
        check(rpc.call("framework_get_reactors")["reactors"][0]["busy"] > 0, "reactors")
        check(rpc.call("spindle_get_memory")["arena"]["bytes"] > 0, "memory")
        check(isinstance(rpc.call("spindle_get_tasks"), list), "tasks")
        check(rpc.call("spdk_get_version")["version"].startswith("Spindle"), "version")
    # Logins against a storm of targets that come and go.
    other = Session(url, name="iqn.2026-01.org.example:other")
    for turn in range(20):
        rpc.call("iscsi_create_target_node", name=f"t{turn}", pg_ig_maps=[{"pg_tag": 1, "ig_tag": 1}],
                 luns=[{"bdev_name": "disk", "lun_id": 3}])
        with Session(url.replace(":t/0", f":t{turn}/3")) as short:
            check(short.capacity() == (32 * 2048, 512), "a new target")
        rpc.call("iscsi_delete_target_node", name=f"t{turn}")
    check(other.read(0, 1) == other.read(0, 1), "a session beside the storm")
    other.close()
    turns = load.end()
    # A target that is loaded is removed: sessions end, nothing hangs, the device is free.
    load = Load(url)
    wait_for("load", lambda: all(load.done) or load.failed)
    rpc.call("iscsi_delete_target_node", name=name)
    load.stop.set()
    for thread in load.threads:
        thread.join(30)
        check(not thread.is_alive(), "an initiator of a removed target hangs")
    wait_for("sessions of a removed target", lambda: rpc.call("iscsi_get_connections") == [])
    rpc.call("bdev_malloc_delete", name="ram")
    rpc.call("bdev_malloc_create", name="ram", num_blocks=64 * 2048, block_size=512)
    rpc.call("iscsi_create_target_node", name="t", pg_ig_maps=[{"pg_tag": 1, "ig_tag": 1}], luns=[{"bdev_name": "ram", "lun_id": 0}])
    with Session(url) as disk:
        check(disk.capacity() == (64 * 2048, 512), "the target came back")
    return turns


def framing(target):
    """Requests as SPDK's rpc.py sends them, and as nobody should."""
    with Rpc(target.socket) as rpc:
        rpc.socket.sendall(b'{"jsonrpc":"2.0","method":"spdk_get_version","id":1}{"jsonrpc":"2.0","method":"rpc_get_methods","id":2}')
        check([rpc.receive()["id"], rpc.receive()["id"]] == [1, 2], "two requests in one packet")
        for byte in b' {"jsonrpc": "2.0", "id": "x", "method": "spdk_get_version"}':
            rpc.socket.sendall(bytes([byte]))
        check(rpc.receive()["id"] == "x", "a request byte by byte")
        # JSON-RPC 2.0 §6: a batch is answered by a list, a notification by nothing.
        rpc.socket.sendall(b'[{"jsonrpc":"2.0","method":"spdk_get_version","id":3},{"jsonrpc":"2.0","method":"spdk_get_version"},'
                           b'{"jsonrpc":"2.0","method":"none","id":4}]')
        answers = {a["id"]: a for a in rpc.receive()}
        check("result" in answers[3] and answers[4]["error"]["code"] == -32601 and len(answers) == 2, f"a batch: {answers}")
        for request, code in [(b'{"jsonrpc":"2.0","id":5}', -32600), (b'{"jsonrpc":"2.0","id":5,"method":7}', -32600),
                              (b'{"jsonrpc":"2.0","id":5,"method":"bdev_get_bdevs","params":[1]}', -32602),
                              (b'{"jsonrpc":"2.0","id":5,"method":"bdev_get_bdevs","params":7}', -32602)]:
            rpc.socket.sendall(request)
            answer = rpc.receive()
            # 5.1: parameters of the wrong kind make an invalid request or invalid parameters.
            check(answer["error"]["code"] in (code, -32600), f"{request}: {answer}")
    with Rpc(target.socket) as rpc:
        rpc.socket.sendall(b"GET / HTTP/1.0\r\n\r\n")
        check(rpc.receive()["error"]["code"] == -32700, "rubbish")
        check(rpc.socket.recv(1) == b"", "after rubbish the line is cut")
    # The limit of 16 MiB: just below is served, above is refused.
    big = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "bdev_get_bdevs", "params": {"name": "x" * (15 * MIB)}}).encode()
    with Rpc(target.socket) as rpc:
        rpc.socket.sendall(big)
        check(rpc.receive()["error"]["code"] == -19, "a request of 15 MiB")
    with Rpc(target.socket) as rpc:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            rpc.socket.sendall(b'{"a":"' + b"x" * (17 * MIB))
        with contextlib.suppress(ConnectionResetError):
            check(rpc.receive()["error"]["code"] == -32600, "a request of 17 MiB")

    # Many clients at once; those beyond the limit are hung up on, not left waiting.
    def ask(_):
        with Rpc(target.socket) as rpc:
            return [rpc.call("spdk_get_version")["version"] for _ in range(20)]

    with concurrent.futures.ThreadPoolExecutor(32) as pool:
        check(len(list(pool.map(ask, range(64)))) == 64, "many clients")
    idle = [Rpc(target.socket) for _ in range(64)]
    time.sleep(0.2)
    with Rpc(target.socket) as rpc:
        with contextlib.suppress(ConnectionError):
            rpc.socket.sendall(b"{}")
            check(rpc.socket.recv(1) == b"", "one client too many")
    for client in idle:
        client.close()

    def serves():
        with contextlib.suppress(ConnectionError):
            return ask(0)

    wait_for("a place for a client", serves)


def command_line(target, folder):
    """`spindle rpc` and `spindle check`."""
    def spindle(*words, stdin=None):
        return subprocess.run([BINARY, *words], input=stdin, capture_output=True, text=True, timeout=60)

    done = spindle("rpc", "--socket", target.socket, "spdk_get_version")
    check(done.returncode == 0 and "version" in json.loads(done.stdout), f"spindle rpc: {done}")
    done = spindle("rpc", "--socket", target.socket, "bdev_get_bdevs", "-", stdin='{"name": "ram"}')
    check(json.loads(done.stdout)[0]["name"] == "ram", f"spindle rpc with standard input: {done}")
    done = spindle("rpc", "--socket", target.socket, "bdev_get_bdevs", '{"nme": "ram"}')
    check(done.returncode == 1 and "nme" in done.stderr and not done.stdout, f"spindle rpc, refused: {done}")
    done = spindle("rpc", "--socket", f"{folder}/none", "bdev_get_bdevs")
    check(done.returncode == 1 and "--socket" in done.stderr, f"spindle rpc without a target: {done}")
    check(stat.S_IMODE(os.stat(target.socket).st_mode) == 0o600, "mode of the RPC socket")
    check("## bdev_malloc_create" in spindle("reference").stdout, "spindle reference")


def configuration(rpc, folder):
    """What is saved is what runs again, and what `check` says of it."""
    path = pathlib.Path(folder, "saved.json")
    os.umask(0)
    saved = rpc.call("save_config", filename=str(path))
    os.umask(0o022)
    check(stat.S_IMODE(path.stat().st_mode) == 0o600, "mode of a saved configuration")
    check(json.loads(path.read_text()) == saved == rpc.call("save_config"), "what is answered is what is saved")
    refused(rpc, "filename", "save_config", filename=f"{folder}/none/x")
    return path, saved


def check_file(path, folder):
    def spindle_check(text, mode=0o600):
        file = pathlib.Path(folder, "check.json")
        file.unlink(missing_ok=True)
        file.write_text(text)
        file.chmod(mode)
        return subprocess.run([BINARY, "check", file], capture_output=True, text=True, timeout=60)

    good = path.read_text()
    done = spindle_check(good)
    check(done.returncode == 0 and "all well" in done.stdout, f"spindle check: {done}")
    done = spindle_check(good, mode=0o644)
    check(done.returncode == 1 and "chmod 600" in done.stderr, f"secrets that others may read: {done}")
    for old, new, words in [('"block_size": 512', '"block_size": 513', ["bdev_malloc_create", "block_size"]),
                            ('"pg_tag": 1', '"pg_tag": 3', ["iscsi_create_target_node", "pg_tag"]),
                            ('"bdev_name": "ram"', '"bdev_name": "rom"', ["luns[0]", "bdev_name"]),
                            ("iscsi_create_initiator_group", "iscsi_create_initiator_grp", ["iscsi_create_initiator_grp"]),
                            ('"tag": 1', '"tag": x', ["line"])]:
        check(old in good, f"{old} is in the configuration")
        done = spindle_check(good.replace(old, new, 1))
        check(done.returncode == 1 and all(w in done.stderr for w in words), f"{new}: {done.stderr}")
    # `run` refuses the same file with the same words, and leaves nothing behind.
    file = pathlib.Path(folder, "bad.json")
    file.write_text(good.replace('"bdev_name": "ram"', '"bdev_name": "rom"', 1))
    file.chmod(0o600)
    done = subprocess.run([BINARY, "run", "-c", file, "--socket", f"{folder}/bad.sock", "--state", f"{folder}/state"],
                          capture_output=True, text=True, timeout=60)
    check(done.returncode == 1 and "luns[0]" in done.stderr and "subsystems[1]" in done.stderr, f"run -c: {done}")
    check(not os.path.exists(f"{folder}/bad.sock"), "a run that failed leaves no socket")


def main():
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="spindle-rpc-", dir=".") as folder:
        folder = str(pathlib.Path(folder).resolve())
        with run("--cores", "0-1", "--memory", "1G", folder=folder) as target, Calls(target.socket) as rpc:
            methods = set(rpc.call("rpc_get_methods"))
            bdevs(rpc, folder)
            port = groups(rpc, target)
            name = targets(rpc, target, folder)
            url = f"iscsi://127.0.0.1:{port}/{name}/0"
            turns = under_load(rpc, target, url, name)
            decorators(rpc, url, name)
            framing(target)
            command_line(target, folder)
            path, saved = configuration(rpc, folder)
            left = methods - called
            assert not left, f"methods that no test calls: {sorted(left)}"
        check_file(path, folder)
        with run(folder=folder, config=path) as target, Rpc(target.socket) as rpc:
            check(rpc.call("save_config") == saved, "run -c of a saved configuration gives the same one")
            with Session(url) as disk:
                check(disk.capacity() == (64 * 2048, 512), "what was saved serves")
    print(f"RESULT: {len(methods)} methods, {checks} checks, {turns} writes and reads under the changes, "
          f"in {time.monotonic() - started:.0f} s; {len(failures)} failed")
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    main()
