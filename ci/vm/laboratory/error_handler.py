"""The kernel's error handler: how far it went, by what libiscsi writes into the kernel's log."""
import re

# What libiscsi says (its parameter `debug_libiscsi_eh`) when a stage begins.
STAGES = {
    "abort": r"aborting \[sc",
    "lun reset": r"LU Reset \[sc .*\n.*tmf set timeout",
    "target reset": r"tgt Reset \[sc .*\n.*tmf set timeout",
    "session drop": r"wait for relogin",
}


def begin(disk, command_timeout):
    """From now on commands time out after so many seconds, and the error handler tells what it does."""
    disk.set_attribute("device/timeout", command_timeout)
    disk.machine.run("echo 1 > /sys/module/libiscsi/parameters/debug_libiscsi_eh; dmesg -C")


def stages(disk):
    """The stages that were begun since."""
    log = disk.machine.text("dmesg", quiet=True)
    return [name for name, mark in STAGES.items() if re.search(mark, log)]


def aborted(disk):
    """How many commands were aborted with success since."""
    return disk.machine.text("dmesg", quiet=True).count("abort success")


def patience(**seconds):
    """open-iscsi's settings: how long an answer to `abort`, `lu_reset`, `tgt_reset` is waited for."""
    return {f"node.session.err_timeo.{name}_timeout": str(value) for name, value in seconds.items()}
