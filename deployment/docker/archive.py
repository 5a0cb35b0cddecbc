"""Archives of the data folder through standard input and output: an image has no tar.

Usage: ``python archive.py create FOLDER [--exclude NAME]... [PART]...`` writes a compressed tar
archive of FOLDER, or of these parts of it, to standard output. ``python archive.py extract FOLDER``
reads one from standard input. A file that goes while it is packed is left out: it was a row of the
prediction log that has reached the database, or a draft.
"""

import argparse
import gzip
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path


def files_of(folder: Path, parts: Sequence[str], excluded: Sequence[str]) -> Iterator[Path]:
    """Folders and files below the parts, each folder before its content."""
    for part in parts or [path.name for path in sorted(folder.iterdir())]:
        if part not in excluded:
            yield folder / part
            yield from sorted((folder / part).rglob("*"))


def create(folder: Path, parts: Sequence[str], excluded: Sequence[str]) -> None:
    """Write the archive; files that grow are cut to the size that they had."""
    with (
        gzip.GzipFile(fileobj=sys.stdout.buffer, mode="wb", compresslevel=1) as compressed,
        tarfile.open(fileobj=compressed, mode="w|") as archive,
    ):
        for path in files_of(folder, parts, excluded):
            try:
                member = archive.gettarinfo(path, str(path.relative_to(folder)))
                if member.isreg():
                    with path.open("rb") as file:
                        archive.addfile(member, file)
                else:
                    archive.addfile(member)
            except FileNotFoundError:
                continue


def extract(folder: Path) -> None:
    """Unpack what stdin holds; members that lead out of the folder are an error."""
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz") as archive:
        archive.extractall(folder, filter="data")


def main() -> int:
    """Create or extract."""
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["create", "extract"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--exclude", action="append", default=[])
    parser.add_argument("parts", nargs="*")
    options = parser.parse_args()
    if options.action == "create":
        create(options.folder, options.parts, options.exclude)
    else:
        extract(options.folder)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
