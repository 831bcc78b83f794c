"""A guest's initramfs: an archive in the kernel's `newc` format, made anew for each start."""
import stat
from pathlib import Path


class Initramfs:
    """Files by name; folders above them are made as needed."""

    def __init__(self):
        self._entries = {}

    def add(self, name, data, mode=0o644):
        data = data.encode() if isinstance(data, str) else data
        for folder in reversed(Path(name).parents[:-1]):
            self._entries.setdefault(str(folder), (stat.S_IFDIR | 0o755, b""))
        self._entries[name] = (stat.S_IFREG | mode, data)

    def add_file(self, name, path):
        self.add(name, Path(path).read_bytes(), Path(path).stat().st_mode & 0o777)

    def add_tree(self, name, folder):
        for path in sorted(Path(folder).rglob("*")):
            if path.is_file():
                self.add_file(f"{name}/{path.relative_to(folder)}", path)

    def write(self, path):
        with open(path, "wb") as file:
            entries = [*self._entries.items(), ("TRAILER!!!", (0, b""))]
            for number, (name, (mode, data)) in enumerate(entries, 1):
                encoded = name.encode() + b"\0"
                # magic, ino, mode, uid, gid, nlink, mtime, size, dev (2), rdev (2), name size, check
                fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
                head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
                file.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))
