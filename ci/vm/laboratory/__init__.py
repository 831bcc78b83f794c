"""The laboratory: guests with a real Linux kernel, run against a SCSI target. See docs/laboratory.md.

What a scenario imports stands here; the rest is machinery:

    scenario    what a scenario is and what it needs          lab         the world a scenario gets
    machine     commands on host and guests                   guest       the two kinds of guest
    initiator   open-iscsi                                    disk        a SCSI disk as its initiator sees it
    scsi        CDBs, sense data                              workload    fio, file systems, comparing
    network     segments, ports, impairment                   relay       the process that impairs a port
    journal     a record of acknowledged writes               targets/    what can stand on the other side
    cache, build, initramfs                                   things made once
    runner, world, cli                                        running scenarios, each in namespaces of its own
"""
from laboratory import scsi
from laboratory.disk import Disk
from laboratory.initiator import Initiator, LoginFailed
from laboratory.journal import Journal
from laboratory.lab import Lab
from laboratory.machine import CommandFailed, Timeout, eventually
from laboratory.scenario import Topology, scenario
from laboratory.workload import FileSystem, fio, verify_with_fio

__all__ = [
    "CommandFailed",
    "Disk",
    "FileSystem",
    "Initiator",
    "Journal",
    "Lab",
    "LoginFailed",
    "Timeout",
    "Topology",
    "eventually",
    "fio",
    "scenario",
    "scsi",
    "verify_with_fio",
]
