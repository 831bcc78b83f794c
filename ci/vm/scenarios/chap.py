"""Authentication: CHAP one way and both ways, and secrets that must be refused."""
from laboratory import LoginFailed, scenario
from laboratory.initiator import AUTHENTICATION_FAILED

OURS = ("initiator", "secret-of-12+")
THEIRS = ("target", "another-of-12+")


def refused(lab, iqn, **secrets):
    """A login that must fail, as an authentication and not otherwise."""
    try:
        lab.initiator().login(iqn, lab.portal(), **secrets)
    except LoginFailed as failed:
        assert failed.code == AUTHENTICATION_FAILED, f"another failure was expected: {failed}"
    else:
        raise AssertionError(f"the target let us in with {secrets}")
    assert lab.initiator().sessions() == 0


@scenario(needs={"chap"})
def one_way(lab):
    """The right secret is let in and gets its disk."""
    disk = lab.disk(16, chap=OURS, login={"chap": OURS})
    disk.write(0, b"\xa5" * 4096)
    assert disk.read(0, 4096) == b"\xa5" * 4096


@scenario(needs={"chap", "mutual-chap"})
def both_ways(lab):
    """The target proves itself too."""
    lab.disk(16, chap=OURS, mutual=THEIRS, login={"chap": OURS, "mutual": THEIRS})


@scenario(needs={"chap"})
def wrong_secrets(lab):
    """Wrong secret, wrong name and no CHAP at all are refused, and the right one is let in afterwards."""
    iqn = lab.serve(16, chap=OURS)
    refused(lab, iqn, chap=(OURS[0], "not-the-secret"))
    refused(lab, iqn, chap=("somebody", OURS[1]))
    lab.guest.run("iscsiadm", "-m", "node", "-o", "delete")
    refused(lab, iqn)
    lab.guest.run("iscsiadm", "-m", "node", "-o", "delete")
    lab.initiator().login(iqn, lab.portal(), chap=OURS).disk(1)


@scenario(needs={"chap", "mutual-chap"})
def target_with_wrong_secret(lab):
    """An initiator that is shown a wrong secret by the target goes away."""
    iqn = lab.serve(16, chap=OURS, mutual=THEIRS)
    try:
        lab.initiator().login(iqn, lab.portal(), chap=OURS, mutual=(THEIRS[0], "not-the-secret"))
    except LoginFailed:
        pass
    else:
        raise AssertionError("the initiator took a wrong answer of the target")
    assert lab.initiator().sessions() == 0
