"""Many idle sessions: they log in, answer pings, and do nothing else. One PDU logs in; one thread serves them all."""

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
OPERATIONAL_TO_FULL = 0x87


class Refused(Exception):
    """A login was not answered, or not with success."""


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
            keys = {"InitiatorName": f"{self.name}-{n}", "TargetName": self.target, "SessionType": "Normal"}
            text = b"".join(f"{key}={value}\0".encode() for key, value in keys.items())
            isid = bytes([0x80]) + n.to_bytes(5, "big")
            header = struct.pack(">BBBBI6sHIHHII16x", LOGIN_REQUEST, OPERATIONAL_TO_FULL, 0, 0, len(text), isid, 0, n, 0, 0,
                                 1, 0)
            line.sendall(header + text + bytes(-len(text) % 4))
            lines.append(line)
        for line in lines:
            answer = self._receive(line)
            if answer[0] & 0x3F != LOGIN_RESPONSE or answer[36] != 0:
                raise Refused(f"session {len(self.lines)}: {answer.hex()}")
            line.setblocking(False)
            self.lines[line.fileno()] = (line, bytearray())
            self.epoll.register(line, select.EPOLLIN)

    @staticmethod
    def _receive(line):
        data = b""
        while len(data) < BHS or len(data) < BHS + (-(-int.from_bytes(data[5:8], "big") // 4) * 4):
            more = line.recv(4096)
            if not more:
                raise Refused("the target hung up")
            data += more
        return data

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
