"""Header and data digests."""
from laboratory import scenario, verify_with_fio


def with_digests(lab, header, data):
    settings = {
        "node.conn[0].iscsi.HeaderDigest": "CRC32C" if header else "None",
        "node.conn[0].iscsi.DataDigest": "CRC32C" if data else "None",
    }
    disk = lab.disk(digests="CRC32C,None", login={"settings": settings})
    for name, wanted in (("header_digest", header), ("data_digest", data)):
        told = disk.session.parameter(name)
        assert told == ("1" if wanted else "0"), f"{name} was negotiated to {told}"
    # (a request bigger than the first burst needs R2T; small and odd ones leave padding)
    verify_with_fio(disk, bs="512", size="1M")
    verify_with_fio(disk, bs="1M", size="16M", iodepth=4)


@scenario(needs={"digests"}, every_kind=True)
def header_and_data(lab):
    """Both digests: every PDU is guarded."""
    with_digests(lab, True, True)


@scenario(needs={"digests"})
def header_only(lab):
    """Header digest without data digest."""
    with_digests(lab, True, False)


@scenario(needs={"digests"})
def data_only(lab):
    """Data digest without header digest."""
    with_digests(lab, False, True)


@scenario()
def none(lab):
    """No digest."""
    with_digests(lab, False, False)
