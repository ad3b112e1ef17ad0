"""Detect network file systems, which other machines may write to as well."""

from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
SHARED = (
    "nfs", "lustre", "gpfs", "cifs", "smb", "afs", "ceph", "beegfs", "glusterfs", "panfs", "orangefs", "pvfs", "wekafs", "9p", "fuse.sshfs",
    "fuse.glusterfs", "fuse.ceph", "fuse.juicefs", "fuse.s3fs", "fuse.rclone", "fuse.moosefs",
)  # fmt: skip
"""Prefixes of the names of network file systems."""


def get_network_file_system(folder: Path) -> str | None:
    """Return the network file system that `folder` is on, or its nearest parent that exists; None for a local disk."""
    try:
        lines = MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not a Linux
        return None
    place, file_system = folder.resolve(), ""
    depth = -1
    for line in lines:
        _, escaped, kind, *_ = line.split(" ")
        mount_point = Path(escaped.encode().decode("unicode_escape"))  # \040 is a space
        if place.is_relative_to(mount_point) and len(mount_point.parts) >= depth:  # a later mount at the same point hides the earlier one
            depth, file_system = len(mount_point.parts), kind
    return file_system if file_system.startswith(SHARED) else None
