"""The command `ci/vm/lab`."""
import argparse
import fnmatch
import os
import shutil
import subprocess
import sys
import unittest

from laboratory import build, planted
from laboratory.paths import VM, cache
from laboratory.runner import Runner, isolated, stop_quietly
from laboratory.scenario import all_scenarios
from laboratory.targets import TARGETS

# A program of each host package, by which it is known to be there.
PROGRAMS = (
    "mmdebstrap mke2fs gcc make flex bison bc xz perl qemu-system-x86_64 unshare setpriv ip tcpdump tgtd apt-get".split()
)


def choose(names):
    """Scenarios by name, by file, by pattern, or `all`."""
    known = all_scenarios()
    chosen = []
    for name in names:
        found = [
            one for one in known if name in ("all", one, one.split("/")[0]) or fnmatch.fnmatchcase(one, name)
        ]
        if not found:
            sys.exit(f"lab: no scenario {name}; `lab list` shows them")
        chosen += [one for one in found if one not in chosen]
    return [known[name] for name in chosen]


def list_scenarios(options):
    runner = Runner(options.target, options.guest, nightly=options.nightly)
    for scenario in all_scenarios().values():
        why = runner.skip(scenario)
        print(f"{scenario.name:36} {scenario.about}{f' [skipped: {why}]' if why else ''}")


def run(options):
    stop_quietly()
    if os.geteuid() != 0:
        sys.exit("lab: namespaces and TAPs need root")
    runner = Runner(
        options.target, options.guest, options.seed, options.keep, options.verbose, options.nightly
    )
    target = TARGETS[options.target]
    if hasattr(target, "binary") and not target.binary().is_file():
        sys.exit(f"lab: {target.binary()} is missing: cargo build --release, or name it in SPINDLE_BINARY")
    outcomes = runner.run_all(choose(options.names), 1 if options.verbose else options.jobs)
    bad = [outcome for outcome in outcomes if outcome.result in ("failed", "hung")]
    passed = sum(outcome.result == "passed" for outcome in outcomes)
    if not passed and not bad:
        print("lab: nothing was run")
        return 2
    if options.expect is not None and passed + len(bad) != options.expect:
        print(f"lab: {passed + len(bad)} scenarios were run, {options.expect} are expected")
        return 1
    return 1 if bad else 0


def plant(options):
    stop_quietly()
    unknown = set(options.names) - set(planted.CAUGHT)
    if unknown:
        sys.exit(f"lab: no scenario catches {', '.join(sorted(unknown))}; those that are caught: {', '.join(planted.CAUGHT)}")
    build.ensure(["uml"])
    return planted.run(options.names or (list(planted.CAUGHT) if options.all else list(planted.QUICK)), options.seed)


def build_parts(options):
    kinds = ["uml", "qemu"]
    parts = dict.fromkeys(part for kind in kinds for part in build.parts(kind))
    if options.again:
        for part in parts:
            shutil.rmtree(part.folder(), ignore_errors=True)
    build.ensure(kinds)
    for part in parts:
        size = subprocess.run(["du", "-sh", part.folder()], capture_output=True, text=True).stdout.split()[0]
        print(f"{part.name:12} {size:>6}  {part.folder()}")


def shell(options):
    stop_quietly()
    kind = options.guest or "uml"
    build.ensure([kind])
    out = cache() / "runs" / f"shell.{os.getpid()}"
    out.mkdir(parents=True)
    command = [sys.executable, "-m", "laboratory.shell", kind, options.target, str(out)]
    try:
        return subprocess.run(isolated(command), cwd=VM).returncode
    finally:
        shutil.rmtree(out, ignore_errors=True)


def doctor(options):
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    # (containers often have the programs and may not use them)
    probe = "ip tuntap add probe mode tap && mount -t tmpfs probe /run"
    if not missing and subprocess.run(isolated(["sh", "-c", probe]), capture_output=True).returncode:
        missing.append("the right to make namespaces, TAPs and mounts in them (root, CAP_SYS_ADMIN, /dev/net/tun)")
    if missing:
        print("lab: missing on this host:", ", ".join(missing))
        print("lab: ci/install brings what can be installed (ci/vm/packages)")
        return 1
    print("lab: all that is needed is here")
    return 0


def selftest(options):
    suite = unittest.defaultTestLoader.discover(str(VM / "selftest"), top_level_dir=str(VM))
    return 0 if unittest.TextTestRunner(verbosity=1, buffer=True).run(suite).wasSuccessful() else 1


def main():
    p = argparse.ArgumentParser(prog="lab", description="Guests with a real Linux kernel against a SCSI target.")
    commands = p.add_subparsers(required=True, metavar="COMMAND")

    def command(name, function, about):
        c = commands.add_parser(name, help=about)
        c.set_defaults(function=function)
        return c

    def world(c):
        c.add_argument("--target", default=os.environ.get("LAB_TARGET", "spindle"), choices=sorted(TARGETS))
        c.add_argument("--guest", choices=("uml", "qemu"), help="default: the first that the scenario names")
        c.add_argument("--nightly", action="store_true", help="also the long ones")

    world(command("list", list_scenarios, "what there is"))
    c = command("run", run, "run scenarios: names, files, patterns, or all")
    c.add_argument("names", nargs="+", metavar="NAME")
    world(c)
    c.add_argument("--seed", default="1", help="of everything that is random")
    c.add_argument("--keep", action="store_true", help="keep output, console, logs and captures of passed ones too")
    c.add_argument("--jobs", type=int, default=os.cpu_count(), help="scenarios at once (default: one for each CPU)")
    c.add_argument("--expect", type=int, metavar="N", help="fail unless so many scenarios are run")
    c.add_argument("--verbose", action="store_true", help="print output as it comes, one at a time")
    c = command("planted", plant, "make mistakes on purpose, which scenarios must catch")
    c.add_argument("names", nargs="*", metavar="MISTAKE")
    c.add_argument("--all", action="store_true", help="all that can be caught, not a few quick ones")
    c.add_argument("--seed", default="1")
    c = command("build", build_parts, "make root image and kernel now")
    c.add_argument("--again", action="store_true", help="from today's packages, though nothing changed")
    c = command("shell", shell, "a shell in a guest, with a target beside it")
    world(c)
    command("doctor", doctor, "what this host lacks")
    command("selftest", selftest, "the laboratory's own tests")
    options = p.parse_args()
    try:
        return options.function(options)
    except KeyboardInterrupt:
        print("\nlab: ended; nothing is left behind", file=sys.stderr)
        return 130
