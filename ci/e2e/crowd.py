"""Many idle sessions: they log in, answer pings, and do nothing else. One PDU logs in; one thread serves them all.
And one session that reads, as quick as can be."""

import os
import resource
import select
import socket as sockets
import struct
import threading
import urllib.parse

# A range of source ports serves one address: of more sessions each some thousand come from an address of their own.
SESSIONS_AN_ADDRESS = 8000
LOGINS_AT_ONCE = 64
BHS = 48
LOGIN_REQUEST, LOGIN_RESPONSE, NOP_OUT, NOP_IN = 0x43, 0x23, 0x40, 0x20
SCSI_COMMAND, SCSI_RESPONSE, DATA_IN = 0x01, 0x21, 0x25
FINAL_READ_SIMPLE = 0xC1
OPERATIONAL_TO_FULL = 0x87


class Refused(Exception):
    """A login was not answered, or not with success."""


def ask_to_log_in(line, name, target, n):
    """Sends the one Login Request that leads to full feature phase. The first CmdSN is 1."""
    keys = {"InitiatorName": name, "TargetName": target, "SessionType": "Normal"}
    text = b"".join(f"{key}={value}\0".encode() for key, value in keys.items())
    isid = bytes([0x80]) + n.to_bytes(5, "big")
    header = struct.pack(">BBBBI6sHIHHII16x", LOGIN_REQUEST, OPERATIONAL_TO_FULL, 0, 0, len(text), isid, 0, n, 0, 0, 1, 0)
    line.sendall(header + text + bytes(-len(text) % 4))


def hear_of_login(line):
    """Waits for the answer; the StatSN to come next."""
    answer = b""
    while len(answer) < BHS or len(answer) < pdu_bytes(answer):
        more = line.recv(4096)
        if not more:
            raise Refused("the target hung up")
        answer += more
    if answer[0] & 0x3F != LOGIN_RESPONSE or answer[36] != 0:
        raise Refused(answer.hex())
    return int.from_bytes(answer[24:28], "big") + 1


def pdu_bytes(header):
    """Length of a PDU without digests, by its header."""
    return BHS + header[4] * 4 + -(-int.from_bytes(header[5:8], "big") // 4) * 4


class Reader:
    """One session that reads, and keeps its processor while it waits: nothing but the target's time is measured."""

    def __init__(self, url, name="iqn.2026-01.org.example:reader"):
        parts = urllib.parse.urlsplit(url)
        self.line = sockets.create_connection((parts.hostname, parts.port), timeout=20)
        self.line.setsockopt(sockets.IPPROTO_TCP, sockets.TCP_NODELAY, 1)
        ask_to_log_in(self.line, name, parts.path.split("/")[1], 1)
        self.exp_stat_sn, self.cmd_sn = hear_of_login(self.line), 1
        self.line.setblocking(False)
        # Unit attentions of a new session come first.
        for _ in range(10):
            if self._read() == 0:
                return
        raise Refused("no READ ends well")

    def read(self):
        """4 KiB at block 0."""
        status = self._read()
        assert status == 0, f"a READ ended with status {status:02x}h"

    def _read(self):
        cdb = bytes([0x28, 0, 0, 0, 0, 0, 0, 0, 8, 0]).ljust(16, b"\0")
        self.line.send(struct.pack(">BB2xI8xIIII", SCSI_COMMAND, FINAL_READ_SIMPLE, 0, self.cmd_sn, 4096, self.cmd_sn,
                                   self.exp_stat_sn) + cdb)
        self.cmd_sn += 1
        held = b""
        while len(held) < BHS or len(held) < pdu_bytes(held):
            try:
                more = self.line.recv(1 << 16)
            except BlockingIOError:
                continue
            if not more:
                raise Refused("the target hung up")
            held += more
        assert held[0] & 0x3F in (DATA_IN, SCSI_RESPONSE), held[:BHS].hex()
        assert len(held) == pdu_bytes(held), "one answer to one READ"
        self.exp_stat_sn = int.from_bytes(held[24:28], "big") + 1
        return held[3]

    def close(self):
        """Hangs up."""
        self.line.close()


class Crowd:
    """`count` idle sessions with a target, for the length of a `with`."""

    def __init__(self, url, count, name="iqn.2026-01.org.example:crowd"):
        parts = urllib.parse.urlsplit(url)
        self.address = (parts.hostname, parts.port)
        self.target = parts.path.split("/")[1]
        self.name, self.count = name, count
        self.lines, self.pings = {}, 0
        self.epoll = select.epoll()
        self.wake, self.ended = os.pipe()
        self.epoll.register(self.wake, select.EPOLLIN)
        self.thread = None

    def __enter__(self):
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        needed = self.count + 256
        if soft < needed:
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, needed), hard))
        try:
            for first in range(0, self.count, LOGINS_AT_ONCE):
                self._log_in(range(first, min(first + LOGINS_AT_ONCE, self.count)))
        except BaseException:
            self._hang_up()
            raise
        self.thread = threading.Thread(target=self._answer, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        os.close(self.ended)
        self.thread.join()
        self._hang_up()

    def _hang_up(self):
        for line, _ in self.lines.values():
            line.close()
        self.epoll.close()
        os.close(self.wake)

    def _log_in(self, numbers):
        """Some at once: all ask, then all are heard."""
        lines = []
        for n in numbers:
            line = sockets.socket()
            line.bind((f"127.0.0.{2 + n // SESSIONS_AN_ADDRESS}", 0))
            line.settimeout(20)
            line.connect(self.address)
            ask_to_log_in(line, f"{self.name}-{n}", self.target, n)
            lines.append(line)
        for line in lines:
            hear_of_login(line)
            line.setblocking(False)
            self.lines[line.fileno()] = (line, bytearray())
            self.epoll.register(line, select.EPOLLIN)

    def _answer(self):
        while True:
            for fd, _ in self.epoll.poll():
                if fd == self.wake:
                    return
                line, held = self.lines[fd]
                data = line.recv(4096)
                if not data:
                    self.epoll.unregister(fd)
                    continue
                held += data
                while len(held) >= BHS:
                    pdu = bytes(held[:BHS])
                    del held[:BHS]
                    if pdu[0] & 0x3F == NOP_IN and pdu[20:24] != b"\xff" * 4:
                        stat_sn, exp_cmd_sn = struct.unpack_from(">II", pdu, 24)
                        line.send(struct.pack(">BB6x8sI4sII16x", NOP_OUT, 0x80, pdu[8:16], 0xFFFFFFFF, pdu[20:24], exp_cmd_sn,
                                              stat_sn))
                        self.pings += 1
