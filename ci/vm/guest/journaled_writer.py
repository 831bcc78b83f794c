"""Writes blocks at random and says so only after the device has; reads them back and says what it found.

    journaled_writer.py write DEVICE SLOTS BYTES THREADS SEED HOW
    journaled_writer.py read DEVICE SLOTS BYTES

`write` prints `b SLOT GENERATION` before a write and `a SLOT GENERATION` after it was acknowledged as durable. HOW says by
what it became so: `dsync`, O_DIRECT and O_DSYNC, for which Linux sends FUA and a flush; `fsync`, a flush alone; `fua`,
a WRITE(16) with FUA as it is, without a flush. `read` prints `r SLOT GENERATION` for a block that is whole, `t SLOT` for a torn
one. Each thread owns the slots congruent to its number, so each slot has one writer.
"""
import hashlib
import mmap
import os
import random
import signal
import struct
import sys
import threading
import time

import scsi_generic

LOCK = threading.Lock()


def pattern(slot, generation, size):
    """A block that knows its place, its generation and, every 512 bytes, its offset: a mixture of two is seen."""
    seed = hashlib.sha256(struct.pack(">QQ", slot, generation)).digest()
    sectors = (
        struct.pack(">QQQ", slot, generation, at) + (seed * 16)[:488] for at in range(0, size, 512)
    )
    return b"".join(sectors)


def generation_of(slot, block):
    """The generation that a block holds whole, 0 if it was never written, None if it is torn or not this slot's."""
    if block == bytes(len(block)):
        return 0
    generation = struct.unpack(">QQ", block[:16])[1]
    return generation if block == pattern(slot, generation, len(block)) else None


def say(text):
    with LOCK:
        os.write(1, text.encode())


def write_with_fua(device, offset, data):
    """Comes again until it is answered: nobody repeats such a command when its session is lost."""
    cdb = struct.pack(">BBQIBB", 0x8A, 0x08, offset // 512, len(data) // 512, 0, 0).hex()
    while True:
        answer = scsi_generic.request(None, device, cdb, data.hex())
        if answer["status"] == 0 and answer["host"] == 0 and answer["driver"] == 0:
            return len(data)
        time.sleep(0.1)


def write(device, slots, size, threads, seed, how):
    descriptor = os.open(device, os.O_WRONLY | os.O_DIRECT | (os.O_DSYNC if how == "dsync" else 0))
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())

    def work(number):
        choose = random.Random(f"{seed}/{number}")
        memory = mmap.mmap(-1, size)
        generations = {}
        own = range(number, slots, threads)
        while not stopped.is_set():
            slot = choose.choice(own)
            generation = generations[slot] = generations.get(slot, 0) + 1
            memory[:] = pattern(slot, generation, size)
            say(f"b {slot} {generation}\n")
            if how == "fua":
                written = write_with_fua(device, slot * size, bytes(memory))
            else:
                written = os.pwrite(descriptor, memory, slot * size)
            if how == "fsync":
                os.fsync(descriptor)
            if written != size:
                raise OSError(f"short write: {written} of {size}")
            say(f"a {slot} {generation}\n")

    failed = []

    def guarded(number):
        try:
            work(number)
        except OSError as error:
            failed.append(error)

    workers = [threading.Thread(target=guarded, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if failed:
        sys.exit(f"a write failed: {failed[0]}")


def read(device, slots, size):
    descriptor = os.open(device, os.O_RDONLY | os.O_DIRECT)
    memory = mmap.mmap(-1, size)
    found = []
    for slot in range(slots):
        count = os.preadv(descriptor, [memory], slot * size)
        generation = generation_of(slot, memory[:count]) if count == size else None
        found.append(f"t {slot}\n" if generation is None else f"r {slot} {generation}\n")
    say("".join(found))


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(sys.argv[2], *map(int, sys.argv[3:6]), sys.argv[6], sys.argv[7])
    else:
        read(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
