"""Initiators in user space: libiscsi's tools and QEMU's own driver, beside the kernel on the same LUN."""
import json

from laboratory import scenario


@scenario()
def libiscsi_and_kernel(lab):
    """iscsi-ls, iscsi-inq, iscsi-readcapacity16 see what the kernel sees, while it holds the disk."""
    disk = lab.disk(64)
    url = f"iscsi://{lab.portal()}/{disk.session.iqn}/1"
    text = lab.guest.text("iscsi-ls", "-s", f"iscsi://{lab.portal()}")
    assert disk.session.iqn in text, text
    text = lab.guest.text("iscsi-readcapacity16", url)
    assert str((64 << 11) - 1) in text, text
    text = lab.guest.text("iscsi-inq", url)
    assert "DIRECT_ACCESS" in text or "disk" in text.lower(), text
    lab.guest.text("iscsi-inq", "-e", "1", "-c", "0x83", url)


@scenario()
def qemu_and_kernel(lab):
    """qemu-img and qemu-io read what the kernel wrote, and the kernel what they wrote."""
    disk = lab.disk(64)
    url = f"iscsi://{lab.portal()}/{disk.session.iqn}/1"
    info = json.loads(lab.guest.text("qemu-img", "info", "--output=json", url))
    assert info["virtual-size"] == 64 << 20, info
    disk.write(1 << 20, b"\x77" * 65536)
    read = lab.guest.run("qemu-io", "-f", "raw", "-c", "read -P 0x77 1M 64k", url)
    assert "Pattern verification failed" not in read.out, read.out
    lab.guest.run("qemu-io", "-f", "raw", "-c", "write -P 0x33 2M 128k", "-c", "flush", url)
    assert disk.read(2 << 20, 131072) == b"\x33" * 131072
