"""The laboratory's hand on a machine: runs commands, moves files, sends CDBs.

It runs in every guest, and as a thread of the laboratory itself for the host, so that a scenario speaks to both in
the same way. One connection is one request; closing it ends what it started. Everything is frames: a kind (one byte),
a length (four bytes, big endian), the payload.

    R  request (JSON)                 the first frame
    I  input, Z  end of input         to the agent
    S  a signal's number (JSON)       to the agent: to the process group that was started
    O  output, E  error output        from the agent
    X  result (JSON)                  the last frame; {"error": text} when the request itself failed
"""
import glob
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import sys
import threading

import scsi_generic


class Frames:
    """Frames over a socket; sending is safe from several threads."""

    def __init__(self, sock):
        self.sock, self.lock = sock, threading.Lock()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, kind, payload=b""):
        with self.lock:
            self.sock.sendall(struct.pack(">cI", kind, len(payload)) + payload)

    def send_json(self, kind, value):
        self.send(kind, json.dumps(value).encode())

    def receive(self):
        """The next frame as (kind, payload), or (None, b"") when the other side has gone."""
        head = self._exactly(5)
        if head is None:
            return None, b""
        kind, length = struct.unpack(">cI", head)
        payload = self._exactly(length)
        return (None, b"") if payload is None else (kind, payload)

    def _exactly(self, count):
        data = bytearray()
        while len(data) < count:
            try:
                piece = self.sock.recv(min(count - len(data), 1 << 20))
            except OSError:
                return None
            if not piece:
                return None
            data += piece
        return bytes(data)

    def close(self):
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.sock.close()


def execute(frames, argv, cwd=None, env=None, terminal=False):
    """A command: its input and output as frames, its exit code as the result."""
    master = None
    if terminal:
        master, slave = pty.openpty()
        pipes = dict(stdin=slave, stdout=slave, stderr=slave)
    else:
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process = subprocess.Popen(argv, cwd=cwd, env={**os.environ, **(env or {})}, start_new_session=True, **pipes)
    if terminal:
        os.close(slave)

    def kill(number):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            pass

    def listen():
        while True:
            kind, payload = frames.receive()
            if kind == b"S":
                kill(json.loads(payload))
            elif kind == b"I" and terminal:
                os.write(master, payload)
            elif kind in (b"I", b"Z") and not terminal:
                try:
                    if payload:
                        process.stdin.write(payload)
                        process.stdin.flush()
                    if kind == b"Z":
                        process.stdin.close()
                except (BrokenPipeError, ValueError):
                    pass
            elif kind is None:
                # (not after its end: a daemon that it started may still be of its process group)
                if process.poll() is None:
                    kill(signal.SIGKILL)
                return

    def forward(kind, descriptor):
        while True:
            try:
                data = os.read(descriptor, 65536)
            except OSError:
                return
            if not data:
                return
            try:
                frames.send(kind, data)
            except OSError:
                return

    threading.Thread(target=listen, daemon=True).start()
    outputs = [(b"O", master)] if terminal else [(b"O", process.stdout.fileno()), (b"E", process.stderr.fileno())]
    readers = [threading.Thread(target=forward, args=output, daemon=True) for output in outputs]
    for reader in readers:
        reader.start()
    code = process.wait()
    # A daemon that the command left behind may hold the pipes open: what it writes is not waited for.
    for reader in readers:
        reader.join(0.2)
    return {"code": code}


def put(frames, path, mode=0o644):
    """A file, from input frames."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        while True:
            kind, payload = frames.receive()
            if kind == b"Z":
                break
            if kind is None:
                raise EOFError(f"{path}: the sender went away")
            file.write(payload)
    os.chmod(path, mode)
    return {}


def get(frames, path, offset=0, length=None):
    """A file or a part of it, as output frames."""
    with open(path, "rb") as file:
        file.seek(offset)
        while length is None or length > 0:
            data = file.read(1 << 20 if length is None else min(length, 1 << 20))
            if not data:
                break
            frames.send(b"O", data)
            if length is not None:
                length -= len(data)
    return {}


def ask(frames, path, request, timeout=60):
    """One JSON request to a Unix socket, one JSON answer."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(timeout)
        sock.connect(path)
        sock.sendall(json.dumps(request).encode() + b"\n")
        decoder, text = json.JSONDecoder(), ""
        while True:
            data = sock.recv(1 << 20)
            if not data:
                raise EOFError(f"{path} closed after {text!r}")
            text += data.decode()
            try:
                return {"answer": decoder.raw_decode(text.lstrip())[0]}
            except ValueError:
                continue


def find(frames, pattern):
    """Paths that match, sorted."""
    return {"paths": sorted(glob.glob(pattern))}


REQUESTS = {
    "execute": execute,
    "put": put,
    "get": get,
    "ask": ask,
    "find": find,
    "scsi": scsi_generic.request,
}


def handle(sock):
    frames = Frames(sock)
    try:
        kind, payload = frames.receive()
        if kind != b"R":
            return
        request = json.loads(payload)
        try:
            result = REQUESTS[request.pop("what")](frames, **request)
        except Exception as error:  # the other side decides what it means
            result = {"error": f"{type(error).__name__}: {error}"}
        frames.send_json(b"X", result)
    except OSError:
        pass
    finally:
        frames.close()


def serve(listener):
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=handle, args=(sock,), daemon=True).start()


def listen(address):
    host, port = address.rsplit(":", 1)
    listener = socket.create_server((host, int(port)), backlog=64)
    return listener


if __name__ == "__main__":
    ear = listen(sys.argv[1])
    # The laboratory waits for this line: the machine is up.
    host, port = sys.argv[2].rsplit(":", 1)
    with socket.create_connection((host, int(port)), 30) as hello:
        hello.sendall(sys.argv[1].encode() + b"\n")
    serve(ear)
