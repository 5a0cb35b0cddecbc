"""Packs and unpacks parts of the data folder of a container, whose image has no tar.

``python archive.py pack NAME...`` writes a tar archive to stdout, ``unpack`` reads one from stdin.
Used by ``scripts/compose.sh``. Standard library only.
"""

import sys
import tarfile
from contextlib import suppress
from pathlib import Path

DATA = Path("/var/lib/rossmann")


def pack(names: list[str]) -> None:
    """Write the parts ``names``; a file that is gone meanwhile is left out.

    It was a row of the prediction log that has reached the database since.
    """
    with tarfile.open(fileobj=sys.stdout.buffer, mode="w|gz") as archive:
        for name in names:
            for path in [DATA / name, *sorted((DATA / name).rglob("*"))]:
                with suppress(FileNotFoundError):
                    archive.add(path, str(path.relative_to(DATA)), recursive=False)


def unpack() -> None:
    """Write the archive's files into the data folder, in place of those of the same names."""
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz") as archive:
        archive.extractall(DATA, filter="tar")


if __name__ == "__main__":  # also where the text is passed by -c
    if sys.argv[1] == "pack":
        pack(sys.argv[2:])
    else:
        unpack()
