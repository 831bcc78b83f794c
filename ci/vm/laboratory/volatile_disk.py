"""A disk with a volatile write cache, for a guest whose power is cut: what was not flushed may be gone.

It is served to the guest over NBD, from the scenario's own process, and lives in its memory. A write is durable after
a FLUSH or with FUA. At a power cut each 4 KiB block written since is kept or lost, as the seed decides: a disk owes
nobody the order of what was not flushed.
"""
import random
import socket
import struct
import threading

from laboratory.network import CONTROL
from laboratory.steps import note, step

BLOCK = 4096

OPTION_MAGIC, OPTION_REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
FIXED_NEWSTYLE, NO_ZEROES = 1, 2
OPT_EXPORT_NAME, OPT_ABORT, OPT_INFO, OPT_GO = 1, 2, 6, 7
REP_ACK, REP_INFO, REP_ERR_UNSUP = 1, 3, 0x80000001
HAS_FLAGS, SEND_FLUSH, SEND_FUA, SEND_TRIM = 1, 4, 8, 32
READ, WRITE, DISCONNECT, FLUSH, TRIM = 0, 1, 2, 3, 4
FUA = 1
FLAGS = HAS_FLAGS | SEND_FLUSH | SEND_FUA | SEND_TRIM


class VolatileDisk:
    """The disk. `durable` is what a power cut leaves."""

    def __init__(self, mib, seed):
        self.size = mib << 20
        self._now, self.durable = bytearray(self.size), bytearray(self.size)
        self._pending = {}  # blocks written and not flushed
        self._random, self._lock = random.Random(f"{seed}/disk"), threading.Lock()
        self._sock = None
        self.flushes, self.writes = 0, 0
        self._stalling, self._stalled = 0, []  # how many more requests stall (-1: all), and those that do
        self._failing = None
        self._ear = socket.create_server((f"{CONTROL}.1", 0))
        self._port = self._ear.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def attach(self, machine, device="/dev/nbd0"):
        """The disk becomes a block device of the guest."""
        step(f"attach a disk with a volatile cache to {machine}")
        machine.run("modprobe -q nbd; nbd-client -N disk "
                    f"{CONTROL}.1 {self._port} {device} && blockdev --getsize64 {device}")  # fmt: skip
        return device

    def stall(self, writes=None):
        """It takes requests and answers none, until `resume`. With `writes`: only so many writes stall, the rest goes on.

        Nobody can take a stalled write back: it reaches the disk when it goes on, over whatever was written meanwhile.
        """
        step("the disk stalls" if writes is None else f"{writes} writes stall in the disk")
        with self._lock:
            self._stalling = -1 if writes is None else writes

    def fail(self, what):
        """From now on "reads" or "writes" end with an I/O error, and change nothing; None: neither."""
        step(f"the disk fails {what}" if what else "the disk fails no more")
        with self._lock:
            self._failing = what

    def stalled(self):
        """How many requests stall now."""
        with self._lock:
            return len(self._stalled)

    def resume(self):
        step("the disk goes on")
        with self._lock:
            self._stalling = 0
            late, self._stalled = self._stalled, []
            for sock, request in late:
                self._execute(sock, *request)

    def cut_power(self):
        """What was not flushed is kept or lost, block by block. The guest must be dead already."""
        with self._lock:
            if self._sock:
                # (a dead machine says no farewell: the thread that reads from it must be told)
                self._sock.shutdown(socket.SHUT_RDWR)
                self._sock = None
            self._stalling, self._stalled = 0, []
            lost = 0
            for block, data in sorted(self._pending.items()):
                if self._random.random() < 0.5:
                    self.durable[block * BLOCK : block * BLOCK + len(data)] = data
                else:
                    lost += 1
            note(f"power cut: {len(self._pending)} blocks were in the cache, {lost} are lost; {self.flushes} flushes")
            self._pending.clear()
            self._now[:] = self.durable

    # NBD, fixed newstyle, simple replies

    def _serve(self):
        while True:
            sock, _ = self._ear.accept()
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._sock = sock
            try:
                if self._negotiate(sock):
                    self._transmit(sock)
            except (OSError, EOFError, struct.error):
                pass
            sock.close()

    def _negotiate(self, sock):
        sock.sendall(b"NBDMAGIC" + struct.pack(">QH", OPTION_MAGIC, FIXED_NEWSTYLE | NO_ZEROES))
        wanted = struct.unpack(">I", _exactly(sock, 4))[0]
        while True:
            _, option, length = struct.unpack(">QII", _exactly(sock, 16))
            _exactly(sock, length)

            def reply(kind, data=b"", option=option):
                sock.sendall(struct.pack(">QIII", OPTION_REPLY_MAGIC, option, kind, len(data)) + data)

            if option == OPT_EXPORT_NAME:
                zeroes = b"" if wanted & NO_ZEROES else bytes(124)
                sock.sendall(struct.pack(">QH", self.size, FLAGS) + zeroes)
                return True
            if option in (OPT_INFO, OPT_GO):
                reply(REP_INFO, struct.pack(">HQH", 0, self.size, FLAGS))
                reply(REP_ACK)
                if option == OPT_GO:
                    return True
            elif option == OPT_ABORT:
                reply(REP_ACK)
                return False
            else:
                reply(REP_ERR_UNSUP)

    def _transmit(self, sock):
        while True:
            magic, flags, kind, handle, offset, length = struct.unpack(">IHHQQI", _exactly(sock, 28))
            if magic != REQUEST_MAGIC or kind == DISCONNECT:
                return
            data = _exactly(sock, length) if kind == WRITE else b""
            request = (flags, kind, handle, offset, length, data)
            with self._lock:
                if sock is not self._sock:
                    return
                if self._stalling < 0 or (self._stalling and kind == WRITE):
                    self._stalling -= self._stalling > 0
                    self._stalled.append((sock, request))
                else:
                    self._execute(sock, *request)

    def _execute(self, sock, flags, kind, handle, offset, length, data):
        answer, error = b"", 0
        if kind in (READ, WRITE, TRIM) and offset + length > self.size:
            error = 22
        elif self._failing == ("reads" if kind == READ else "writes" if kind in (WRITE, TRIM) else ""):
            error = 5
        elif kind == READ:
            answer = bytes(self._now[offset : offset + length])
        elif kind in (WRITE, TRIM):
            self.writes += 1
            self._write(offset, data if kind == WRITE else bytes(length), flags & FUA)
        elif kind == FLUSH:
            self.flushes += 1
            for block in list(self._pending):
                self._settle(block)
        sock.sendall(struct.pack(">IIQ", REPLY_MAGIC, error, handle) + answer)

    def _write(self, offset, data, fua):
        self._now[offset : offset + len(data)] = data
        for block in range(offset // BLOCK, -(-(offset + len(data)) // BLOCK)):
            self._pending[block] = bytes(self._now[block * BLOCK : (block + 1) * BLOCK])
            if fua:
                self._settle(block)

    def _settle(self, block):
        data = self._pending.pop(block)
        self.durable[block * BLOCK : block * BLOCK + len(data)] = data


def _exactly(sock, count):
    data = bytearray()
    while len(data) < count:
        piece = sock.recv(count - len(data))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
