"""Format of a user's file by its content: archives are unpacked, what is no table is named."""

import errno
import gzip
import lzma
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Final, Literal
from xml.etree import ElementTree

from rossmann.errors import DataValidationError, first_line

FileFormat = Literal["csv", "parquet", "xlsx"]
"""Formats of tables; all workbooks count as xlsx."""
_GZIP: Final = b"\x1f\x8b"
_PARQUET: Final = b"PAR1"
_ZIP: Final = (b"PK\x03\x04", b"PK\x05\x06")
_COMPOUND: Final = b"\xd0\xcf\x11\xe0"
_ENCRYPTED: Final = "EncryptedPackage".encode("utf-16-le")
_FORM: Final = b"content-disposition: form-data"
_OTHER_FORMATS: Final = {
    **{b"%PDF": "a PDF document", b"{\\rtf": "an RTF document"},
    **dict.fromkeys((b"\x89PNG", b"\xff\xd8\xff", b"GIF8"), "a picture"),
    **dict.fromkeys((b"{", b"["), "JSON"),
    **dict.fromkeys((b"<htm", b"<HTM", b"<!DO", b"<!do", b"<tab", b"<TAB"), "a web page"),
    **{b"<?xm": "an XML document", b"SQLite format": "an SQLite database"},
    **{b"Rar!": "a RAR archive", b"7z\xbc\xaf": "a 7z archive", b"BZh": "a bzip2 archive"},
    **{b"\xfd7zXZ": "an xz archive", b"\x28\xb5\x2f\xfd": "a zstd archive"},
    **{b"ARROW1": "an Arrow file", b"\x89HDF": "an HDF5 file", b"\x80\x04\x95": "a pickle"},
}
_HEAD_BYTES: Final = 1 << 10
_READ_BYTES: Final = 4 << 20
_MAX_RATIO: Final = 200
"""Plain bytes for each packed one; plans of a chain have 10 to 75, the formats allow 1,000."""
_UNPACKED_ANYWAY: Final = 16 << 20
"""Bytes that an archive may have unpacked, whatever its ratio."""
_MAX_DEPTH: Final = 3
"""Archives within archives."""
_DAMAGE: Final = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError),
    *(ElementTree.ParseError, ValueError, KeyError, OverflowError, RuntimeError),
)
"""What Python raises for damaged archives, and for those that it cannot read."""


class ReadCancelledError(DataValidationError):
    """A read that nobody waits for any more."""


@dataclass(frozen=True)
class Workspace:
    """Where a file is unpacked, and how far: ``max_bytes`` is the size limit of a table.

    ``is_cancelled``: asked at each step, so that work for nobody ends.
    """

    folder: Path
    max_bytes: int
    is_cancelled: Callable[[], bool] = lambda: False

    def check(self) -> None:
        """Raise ``ReadCancelledError`` if nobody waits for the file."""
        if self.is_cancelled():
            raise ReadCancelledError("nobody waits for the file any more")


class NamesDamage:
    """Context in which what is raised for a damaged file becomes ``DataValidationError``."""

    def __init__(self, name: str, kind: str) -> None:
        self._name, self._kind = name, kind

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        """Raise ``DataValidationError`` in place of an error that means damage."""
        if error is not None and _is_damage(error):
            raise DataValidationError(
                f"{self._name} is a damaged {self._kind}: {first_line(error)}; save it anew"
            ) from error


def _is_damage(error: BaseException) -> bool:
    if isinstance(error, OSError):
        # A damaged length makes an impossible seek; other numbers are those of a full disk.
        return error.errno in (None, errno.EINVAL)
    # Each library in Rust has a PanicException of its own, which none exports.
    return isinstance(error, _DAMAGE) or type(error).__name__ == "PanicException"


def detect_format(name: str, path: Path) -> FileFormat:
    """The format of an unpacked file.

    Raises ``DataValidationError`` for a workbook with a password and for what is no table, naming
    what it is.
    """
    with path.open("rb") as file:
        head = file.read(_READ_BYTES)
    if head.startswith(_PARQUET):
        return "parquet"
    if head.startswith((*_ZIP, _COMPOUND)):
        if _ENCRYPTED in head:
            raise DataValidationError(
                f"{name} is a workbook with a password: save it without one and send it again"
            )
        return "xlsx"
    if head.startswith(b"--") and _FORM in head[:_HEAD_BYTES].lower():
        raise DataValidationError(
            f"{name} is a form: send the file itself as the body, as curl --data-binary @FILE does"
        )
    start = head[:_HEAD_BYTES].lstrip(b"\xef\xbb\xbf \t\r\n")
    for magic, kind in _OTHER_FORMATS.items():
        if start.startswith(magic):
            raise DataValidationError(f"{name} is {kind}, not a table: send CSV, Parquet or Excel")
    return "csv"


def unpack(name: str, path: Path, workspace: Workspace) -> Path:
    """The plain file: unpacked where it is gzip or a zip with one table, one in the other too.

    Raises ``DataValidationError`` for damaged archives, those with a password and those with
    several tables.
    """
    for depth in range(_MAX_DEPTH):
        target = workspace.folder / f"unpacked_{depth}"
        with path.open("rb") as file:
            head = file.read(4)
        if head.startswith(_GZIP):
            _gunzip(name, path, target, workspace)
        elif not head.startswith(_ZIP) or not _unzip(name, path, target, workspace):
            break
        path = target
    return path


def _gunzip(name: str, path: Path, target: Path, workspace: Workspace) -> None:
    with NamesDamage(name, "gzip file"), gzip.open(path) as packed:
        _copy(name, packed, target, workspace, path.stat().st_size)


def _unzip(name: str, path: Path, target: Path, workspace: Workspace) -> bool:
    """Unpack the one table of an archive; False where the archive is a workbook."""
    with NamesDamage(name, "zip file"), zipfile.ZipFile(path) as archive:
        member = _table_member(name, archive, workspace.max_bytes)
        if member is None:
            return False
        with archive.open(member) as packed:
            _copy(name, packed, target, workspace, path.stat().st_size)
    return True


def _table_member(name: str, archive: zipfile.ZipFile, max_bytes: int) -> str | None:
    """The one file of an archive but hidden ones; None where the archive is a workbook."""
    names = archive.namelist()
    size = sum(part.file_size for part in archive.infolist())
    if size > max_bytes:
        raise DataValidationError(
            f"{name} holds more than {max_bytes >> 20:,} MB unpacked: send it as CSV, in parts"
        )
    if "[Content_Types].xml" in names or "mimetype" in names:
        return None
    files = [one for one in names if not one.endswith("/") and not _is_hidden(one)]
    if len(files) != 1:
        listed = ", ".join(files[:5]) or "none"
        raise DataValidationError(
            f"{name} is a zip archive with {len(files)} files ({listed}): send one table"
        )
    if archive.getinfo(files[0]).flag_bits & 1:
        raise DataValidationError(f"{name} is a zip archive with a password: unpack it first")
    return files[0]


def _is_hidden(member: str) -> bool:
    """Whether a file of an archive is one that systems add, as ``.DS_Store``."""
    return member.startswith("__MACOSX/") or PurePosixPath(member).name.startswith(".")


def _copy(
    name: str,
    source: IO[bytes] | gzip.GzipFile,
    target: Path,
    workspace: Workspace,
    packed_bytes: int,
) -> None:
    """Write ``source`` to ``target``; raises ``DataValidationError`` above the limits."""
    limit = max(_UNPACKED_ANYWAY, _MAX_RATIO * packed_bytes)
    size = 0
    with target.open("wb") as file:
        while piece := source.read(_READ_BYTES):
            workspace.check()
            size += len(piece)
            if size > workspace.max_bytes:
                raise DataValidationError(
                    f"{name} holds more than {workspace.max_bytes >> 20:,} MB: send it in parts"
                )
            if size > limit:
                raise DataValidationError(
                    f"{name} unpacks to more than {_MAX_RATIO} times its size: send it unpacked"
                )
            file.write(piece)
