"""Archives with one table are unpacked; files that are no tables are named."""

import bz2
import gzip
import io
import lzma
import zipfile

import pytest

from rossmann.data.uploads.table_reader import read_table
from rossmann.errors import DataValidationError

CSV = b"Store,Date\n1,2015-08-13\n"


def zipped(**files: bytes) -> bytes:
    """A zip archive; ``__`` in a name stands for ``/``."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/"), content)
    return out.getvalue()


ARCHIVES = [
    gzip.compress(CSV),
    gzip.compress(gzip.compress(CSV)),
    zipped(plan=CSV),
    zipped(plan=gzip.compress(CSV)),
    zipped(inner=zipped(plan=CSV)),
    gzip.compress(zipped(plan=CSV)),
    zipped(**{"plan__": b"", "plan__plan": CSV, "plan__.DS_Store": b"x", "__MACOSX/._p": b"x"}),
]


# By number: the content holds the time, and each test process collects the tests on its own.
@pytest.mark.parametrize("content", ARCHIVES, ids=range(len(ARCHIVES)))
def test_archives_with_one_table(content: bytes) -> None:
    assert read_table("plan", content).frame.rows() == [("1", "2015-08-13")]


NO_TABLES = [
    (zipped(a=CSV, b=CSV), "is a zip archive with 2 files (a, b): send one table"),
    (zipped(), "is a zip archive with 0 files (none)"),
    (zipped(plan=b"%PDF-1.7"), "is a PDF document"),
    (gzip.compress(CSV)[:-9], "is a damaged gzip file"),
    (zipped(plan=CSV)[:-30], "is a damaged zip file"),
    (b"\x1f\x8bx", "is a damaged gzip file"),
    (gzip.compress(CSV * 800_000), "unpacks to more than 200 times its size: send it unpacked"),
    (bz2.compress(CSV), "is a bzip2 archive"),
    (lzma.compress(CSV), "is an xz archive"),
    (b"{\\rtf1 Store}", "is an RTF document"),
    (b'\n [{"Store": 1}]', "is JSON"),
    (b"\n<table><tr><td>Store</td></tr></table>", "is a web page"),
    (b"SQLite format 3\x00", "is an SQLite database"),
    (
        b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + CSV + b"\r\n--x--",
        "send the file itself as the body, as curl --data-binary @FILE does",
    ),
]


@pytest.mark.parametrize(("content", "said"), NO_TABLES, ids=[said for _, said in NO_TABLES])
def test_what_is_no_table_is_named(content: bytes, said: str) -> None:
    with pytest.raises(DataValidationError, match=r"^plan ") as error:
        read_table("plan", content)
    assert said in str(error.value)
