"""SCSI commands as they are: a CDB through SG_IO, and everything that came back, nothing interpreted."""
import ctypes
import fcntl
import os

SG_IO = 0x2285
SG_DXFER_NONE, SG_DXFER_TO_DEV, SG_DXFER_FROM_DEV = -1, -2, -3


class SgIoHdr(ctypes.Structure):
    """struct sg_io_hdr of <scsi/sg.h>."""

    _fields_ = [
        ("interface_id", ctypes.c_int),
        ("dxfer_direction", ctypes.c_int),
        ("cmd_len", ctypes.c_ubyte),
        ("mx_sb_len", ctypes.c_ubyte),
        ("iovec_count", ctypes.c_ushort),
        ("dxfer_len", ctypes.c_uint),
        ("dxferp", ctypes.c_void_p),
        ("cmdp", ctypes.c_void_p),
        ("sbp", ctypes.c_void_p),
        ("timeout", ctypes.c_uint),
        ("flags", ctypes.c_uint),
        ("pack_id", ctypes.c_int),
        ("usr_ptr", ctypes.c_void_p),
        ("status", ctypes.c_ubyte),
        ("masked_status", ctypes.c_ubyte),
        ("msg_status", ctypes.c_ubyte),
        ("sb_len_wr", ctypes.c_ubyte),
        ("host_status", ctypes.c_ushort),
        ("driver_status", ctypes.c_ushort),
        ("resid", ctypes.c_int),
        ("duration", ctypes.c_uint),
        ("info", ctypes.c_uint),
    ]


def request(frames, device, cdb, data_out=None, data_in=0, timeout_ms=30000):
    """Sends `cdb` (hex) with `data_out` (hex) or room for `data_in` bytes; answers status, sense, data, residual."""
    command = ctypes.create_string_buffer(bytes.fromhex(cdb), len(cdb) // 2)
    sense = ctypes.create_string_buffer(252)
    direction, data, length = SG_DXFER_NONE, None, 0
    if data_out is not None:
        out = bytes.fromhex(data_out)
        direction, length = SG_DXFER_TO_DEV, len(out)
        data = ctypes.create_string_buffer(out, length)
    elif data_in:
        direction, length = SG_DXFER_FROM_DEV, data_in
        data = ctypes.create_string_buffer(data_in)
    header = SgIoHdr(
        interface_id=ord("S"),
        dxfer_direction=direction,
        cmd_len=len(cdb) // 2,
        mx_sb_len=252,
        dxfer_len=length,
        dxferp=ctypes.addressof(data) if data else None,
        cmdp=ctypes.addressof(command),
        sbp=ctypes.addressof(sense),
        timeout=timeout_ms,
    )
    # (opened without waiting, so that a device that is not ready can be asked why)
    descriptor = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, SG_IO, header)
    finally:
        os.close(descriptor)
    received = max(0, length - header.resid) if direction == SG_DXFER_FROM_DEV else 0
    return {
        "status": header.status,
        "host": header.host_status,
        "driver": header.driver_status,
        "sense": sense.raw[: header.sb_len_wr].hex(),
        "data": data.raw[:received].hex() if received else "",
        "residual": header.resid,
        "duration_ms": header.duration,
    }
