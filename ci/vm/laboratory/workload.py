"""Work on a disk: fio, file systems, comparing."""
import json

from laboratory.steps import note, step


def fio_command(disk, name="work", **options):
    """fio's command line; underscores of option names stay, True means a flag without a value."""
    words = ["fio", f"--name={name}", f"--filename={disk.path}", "--ioengine=libaio", "--direct=1", "--group_reporting"]
    words += [f"--{key}" if value is True else f"--{key}={value}" for key, value in options.items()]
    return words + ["--output-format=json"]


def start_fio(disk, log=None, **options):
    return disk.machine.start(*fio_command(disk, **options), log=log)


def fio(disk, timeout=120, **options):
    """Runs fio to its end; an error of it or of the data is a failure. Gives the first job's figures."""
    return figures(start_fio(disk, **options).wait(timeout))


def figures(result):
    text = result.out
    job = json.loads(text[text.index("{") :])["jobs"][0]
    assert job["error"] == 0, f"fio ended with error {job['error']}"
    note(
        "  ".join(
            f"{way}: {job[way]['iops']:.0f} IOPS, {job[way]['bw'] / 1024:.1f} MiB/s, {job[way]['io_bytes'] >> 20} MiB"
            for way in ("read", "write", "trim")
            if job[way]["io_bytes"]
        )
    )
    return job


def verify_with_fio(disk, timeout=120, **options):
    """Writes at random and reads all back; a wrong byte is a failure."""
    wanted = dict(rw="randwrite", bs="4k", size="16M", iodepth=16, verify="crc32c", verify_fatal=1, do_verify=1)
    return fio(disk, timeout, **{**wanted, **options})


def every_size_at_once(disk, seconds):
    """Verifies of fio at depth 1, 16 and 128 at once, with blocks of 512 B to 4 MiB, each on 32 MiB of its own."""
    # (at depth 128 smaller ones: fio keeps a buffer of the biggest size for each)
    mixes = {1: "512/20:4k/40:64k/25:1M/10:4M/5", 16: "512/10:64k/50:1M/20:4M/20", 128: "512/30:4k/50:64k/20"}
    return [
        start_fio(disk, rw="randwrite", bssplit=sizes, offset=f"{40 * n}M", size="32M", iodepth=depth, verify="crc32c",
                  verify_fatal=1, do_verify=1, time_based=True, runtime=seconds)  # fmt: skip
        for n, (depth, sizes) in enumerate(mixes.items())
    ]


class FileSystem:
    """A file system on a disk: made, filled, checked, compared."""

    MAKE = {"ext4": "mkfs.ext4 -q -F", "xfs": "mkfs.xfs -q -f"}
    # (nothing may need repair: `fsck -n` and `xfs_repair -n` only look)
    CHECK = {"ext4": "fsck.ext4 -f -n", "xfs": "xfs_repair -n"}

    def __init__(self, disk, kind, options=""):
        self.disk, self.kind, self.machine = disk, kind, disk.machine
        self.folder = f"/mnt/{disk.name}"
        step(f"make {kind} on {disk}")
        self.machine.run(f"{self.MAKE[kind]} {options} {disk.path} && mkdir -p {self.folder}", timeout=120)

    def mount(self, options="noatime"):
        self.machine.run("mount", "-t", self.kind, "-o", options, self.disk.path, self.folder)

    def unmount(self):
        self.machine.run("umount", self.folder, timeout=120)

    def fill(self, source="/usr/lib/x86_64-linux-gnu/gconv"):
        """Copies a folder of the root image in."""
        self.machine.run(f"cp -r {source} {self.folder}/copy && sync", timeout=120)

    def compare(self, source="/usr/lib/x86_64-linux-gnu/gconv"):
        """What was copied in must be what is read back."""
        self.machine.run("diff", "-r", source, f"{self.folder}/copy", timeout=120)

    def check(self):
        """The unmounted file system must need no repair."""
        self.machine.run(f"{self.CHECK[self.kind]} {self.disk.path}", timeout=120)
