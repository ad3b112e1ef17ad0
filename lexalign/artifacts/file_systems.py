"""Which file system a folder is on, and whether other machines write to it too."""

from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
SHARED = (
    "nfs", "lustre", "gpfs", "cifs", "smb", "afs", "ceph", "beegfs", "glusterfs", "panfs", "orangefs", "pvfs", "wekafs", "9p", "fuse.sshfs",
    "fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.s3fs", "fuse.rclone", "fuse.moosefs",
)  # fmt: skip
"""How the names of file systems begin that several machines share."""


def get_network_file_system(folder: Path) -> str | None:
    """The kind of network file system that `folder`, or what is there of its path, is on; None on a disk of this machine."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not a Linux
        return None
    place, found = folder.resolve(), ""
    deepest = -1
    for line in lines:
        _, mounted, kind, *_ = line.split(" ")
        at = Path(mounted.encode().decode("unicode_escape"))  # \040 is a space
        if place.is_relative_to(at) and len(at.parts) >= deepest:  # the later of two at one place lies over the other
            deepest, found = len(at.parts), kind
    return found if found.startswith(SHARED) else None
