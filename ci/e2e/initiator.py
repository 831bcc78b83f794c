"""libiscsi's library (Debian's libiscsi7) as an initiator for the tests: any CDB, its status, sense and data.

A foreign initiator on purpose: what it and the target agree on is not agreed among ourselves. Of libiscsi's structures
only members are read whose place has been the same since 1.4 (status, residual, sense key and code).
"""

import ctypes
import struct
import urllib.parse

LIB = ctypes.CDLL("libiscsi.so.7")
_PTR, _INT, _STR = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p


class _Data(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("data", _PTR)]


def _declare(name, answer, *arguments):
    function = getattr(LIB, name)
    function.restype, function.argtypes = answer, list(arguments)
    return function


_create = _declare("iscsi_create_context", _PTR, _STR)
_destroy = _declare("iscsi_destroy_context", _INT, _PTR)
_error = _declare("iscsi_get_error", _STR, _PTR)
_targetname = _declare("iscsi_set_targetname", _INT, _PTR, _STR)
_session_type = _declare("iscsi_set_session_type", _INT, _PTR, _INT)
_header_digest = _declare("iscsi_set_header_digest", _INT, _PTR, _INT)
_no_reconnect = _declare("iscsi_set_noautoreconnect", None, _PTR, _INT)
_timeout = _declare("iscsi_set_timeout", _INT, _PTR, _INT)
_user = _declare("iscsi_set_initiator_username_pwd", _INT, _PTR, _STR, _STR)
_target_user = _declare("iscsi_set_target_username_pwd", _INT, _PTR, _STR, _STR)
_connect = _declare("iscsi_full_connect_sync", _INT, _PTR, _STR, _INT)
_logout = _declare("iscsi_logout_sync", _INT, _PTR)
_disconnect = _declare("iscsi_disconnect", _INT, _PTR)
_task = _declare("scsi_create_task", _PTR, _INT, _STR, _INT, _INT)
_free = _declare("scsi_free_scsi_task", None, _PTR)
_add_in = _declare("scsi_task_add_data_in_buffer", _INT, _PTR, _INT, _PTR)
_run = _declare("iscsi_scsi_command_sync", _PTR, _PTR, _INT, _PTR, ctypes.POINTER(_Data))

# SPC-5 §4.5.6 and §4.5.7, as far as the tests look for them.
NOT_READY, MEDIUM_ERROR, ILLEGAL_REQUEST, UNIT_ATTENTION, DATA_PROTECT = 2, 3, 5, 6, 7
LUN_NOT_SUPPORTED, CAPACITY_CHANGED, LUNS_CHANGED, OUT_OF_RANGE, WRITE_PROTECTED = 0x2500, 0x2A09, 0x3F0E, 0x2100, 0x2700


class Broken(Exception):
    """The session is gone, or could not be had."""


class Check(Exception):
    """A command did not end GOOD."""

    def __init__(self, answer):
        super().__init__(f"status {answer.status:#x}, sense {answer.key:x}/{answer.code:04x}")
        self.answer = answer


class Answer:
    def __init__(self, status, key, code, data, residual, deferred=False):
        self.status, self.key, self.code, self.data, self.residual = status, key, code, data, residual
        self.deferred = deferred  # the sense data is about an earlier command

    @property
    def sense(self):
        return (self.key, self.code) if self.status == 2 else None


class Session:
    """A session; of one logical unit unless a command names another."""

    def __init__(self, url, name="iqn.2026-01.org.example:e2e", digest=False, chap=None, mutual=None, timeout=20):
        parts = urllib.parse.urlsplit(url)
        _, target, lun = parts.path.split("/")
        self.lun = int(lun)
        self.context = _create(name.encode())
        _no_reconnect(self.context, 1)
        _timeout(self.context, timeout)
        _targetname(self.context, target.encode())
        _session_type(self.context, 2)
        _header_digest(self.context, 3 if digest else 0)
        if chap:
            _user(self.context, *[x.encode() for x in chap])
        if mutual:
            _target_user(self.context, *[x.encode() for x in mutual])
        if _connect(self.context, parts.netloc.encode(), self.lun) != 0:
            why = _error(self.context).decode(errors="replace")
            _destroy(self.context)
            self.context = None
            raise Broken(why)

    def command(self, cdb, read=0, write=b"", lun=None):
        """Runs a command to its end, whatever its status."""
        cdb = bytes(cdb)
        task = _task(len(cdb), cdb, 1 if read else 2 if write else 0, read or len(write))
        buffer = ctypes.create_string_buffer(read) if read else None
        if read:
            _add_in(task, read, ctypes.cast(buffer, _PTR))
        out = None
        if write:
            keep = ctypes.c_char_p(write)  # keeps the bytes alive while libiscsi sends them
            out = ctypes.byref(_Data(len(write), ctypes.cast(keep, _PTR)))
        done = _run(self.context, self.lun if lun is None else lun, task, out)
        if not done:
            raise Broken(_error(self.context).decode(errors="replace"))
        head = ctypes.string_at(task, 64)
        status, residual_status, residual = (*struct.unpack_from("=i", head), *struct.unpack_from("=i", head, 32),
                                             *struct.unpack_from("=Q", head, 40))
        response, key, code = struct.unpack_from("=Bxxxii", head, 48)
        _free(task)
        if status > 0xFF:
            raise Broken(f"no status: {status:#x} {_error(self.context).decode(errors='replace')}")
        short = residual if residual_status == 1 else 0
        data = buffer.raw[:read - short] if read and status == 0 else b""
        return Answer(status, key & 0xF, code, data, residual, deferred=status == 2 and response in (0x71, 0x73))

    def good(self, *words, **named):
        """Runs a command that is to end GOOD; answers its data."""
        answer = self.command(*words, **named)
        if answer.status != 0:
            raise Check(answer)
        return answer.data

    def read(self, lba, blocks, block=512, lun=None):
        return self.good(struct.pack(">BBQIBB", 0x88, 0, lba, blocks, 0, 0), read=blocks * block, lun=lun)

    def write(self, lba, data, block=512, fua=False, lun=None):
        assert len(data) % block == 0
        self.good(struct.pack(">BBQIBB", 0x8A, 8 if fua else 0, lba, len(data) // block, 0, 0), write=data, lun=lun)

    def sync(self, lun=None, immed=False):
        self.good(struct.pack(">BBQIBB", 0x91, 2 if immed else 0, 0, 0, 0, 0), lun=lun)

    def ready(self, lun=None):
        return self.command(bytes(6), lun=lun)

    def attentions(self, lun=None):
        """Takes every unit attention that waits; answers their codes."""
        codes = []
        while (answer := self.ready(lun)).status == 2 and answer.key == UNIT_ATTENTION:
            codes.append(answer.code)
            assert len(codes) < 32, f"unit attentions without end: {codes}"
        return codes

    def capacity(self, lun=None):
        """Blocks and bytes of a block."""
        data = self.good(struct.pack(">BBQIBB", 0x9E, 0x10, 0, 32, 0, 0), read=32, lun=lun)
        last, block = struct.unpack_from(">QI", data)
        return last + 1, block

    def luns(self):
        data = self.good(struct.pack(">BBBBBBIBB", 0xA0, 0, 0, 0, 0, 0, 4096, 0, 0), read=4096)
        count = struct.unpack_from(">I", data)[0] // 8
        return [struct.unpack_from(">H", data, 8 + 8 * i)[0] & 0x3FFF for i in range(count)]

    def unmap(self, lba, blocks):
        data = struct.pack(">HHIQII", 22, 16, 0, lba, blocks, 0)
        self.good(struct.pack(">BBIBHB", 0x42, 0, 0, 0, len(data), 0), write=data)

    def write_same(self, lba, blocks, pattern, unmap=False):
        self.good(struct.pack(">BBQIBB", 0x93, 8 if unmap else 0, lba, blocks, 0, 0), write=pattern)

    def mapped(self, lba):
        """GET LBA STATUS: is this block mapped, and for how many blocks does that hold."""
        data = self.good(struct.pack(">BBQIBB", 0x9E, 0x12, lba, 24, 0, 0), read=24)
        first, blocks, state = struct.unpack_from(">QIB", data, 8)
        assert first == lba
        return state & 0xF == 0, blocks

    def close(self):
        if self.context:
            _logout(self.context)
            self.drop()

    def drop(self):
        """Without a word to the target."""
        if self.context:
            _disconnect(self.context)
            _destroy(self.context)
            self.context = None

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            self.close()
        else:
            self.drop()
