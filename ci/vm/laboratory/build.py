"""What guests are made of: the root image, the user-mode kernel, Debian's kernel."""
from laboratory.cache import Made
from laboratory.paths import VM

ROOT_IMAGE = Made("root-image", (VM / "guest-packages",), ("LAB_SUITE", "LAB_APT_SOURCES"))
UML_KERNEL = Made("uml-kernel", (VM / "uml.config",), ("LAB_LINUX_SOURCE",))
DEBIAN_KERNEL = Made("debian-kernel", (VM / "guest-modules",))


def parts(kind):
    """What a kind of guest needs."""
    return (ROOT_IMAGE, UML_KERNEL if kind == "uml" else DEBIAN_KERNEL)


def ensure(kinds):
    """Makes what is missing for these kinds of guest."""
    for part in dict.fromkeys(part for kind in kinds for part in parts(kind)):
        part.ensure()
