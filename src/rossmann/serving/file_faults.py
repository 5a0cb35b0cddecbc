"""Every fault of every row of a file, with its place; the first thousand in words."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from rossmann.data.upload_parts import Parts, arrow_of, series_of
from rossmann.data.upload_values import FIELDS, field_text, wrong
from rossmann.errors import Fault, RequestError
from rossmann.serving.file_check import Reading, Settled, Words
from rossmann.serving.file_records import MISSING, WRONG, Records, all_missing

MOST_TOLD: Final = 1_000
"""Faults that an answer lists; it tells how many more there are."""
Marks = dict[str, npt.NDArray[np.bool_]]


def refuse_faults(parts: Parts, reading: Reading, settled: Settled) -> None:
    """Raise ``RequestError`` with the faults of options and rows, if there are any."""
    if not (reading.faulty or settled.stores or settled.dates or settled.options):
        return
    told, count, done = list(settled.options), 0, 0
    for batch in parts.read():
        length = min(len(batch), reading.count - done)
        records = reading.records.at(done, length)
        marks = _marks(records, settled)
        count += sum(int(mark.sum()) for mark in marks.values())
        if len(told) < MOST_TOLD:
            told += _worded(batch, records, marks, done, reading, settled)
        done += length
    if not told and not count:
        return  # what looked amiss were empty rows at the end
    more = count + len(settled.options) - len(told[:MOST_TOLD])
    told = told[:MOST_TOLD]
    if more:
        told.append(Fault(("rows",), f"{more:,} more faults are not listed", "more_faults"))
    raise RequestError(told)


def _marks(records: Records, settled: Settled) -> Marks:
    """Which rows are at fault, by field; an empty row's fault is that of the field ''."""
    empty = all_missing(records, FIELDS)
    marks: Marks = {"": empty}
    for name in FIELDS:
        codes = records[name]
        bad = codes == WRONG if name == "Open" else codes < 0
        for field, words in (("Store", settled.stores), ("Date", settled.dates)):
            if name == field and words:
                bad = bad | np.isin(codes, list(words))
        marks[name] = bad & ~empty
    return marks


def _worded(
    batch: pa.RecordBatch,
    records: Records,
    marks: Marks,
    start: int,
    reading: Reading,
    settled: Settled,
) -> Iterator[Fault]:
    """The faults of a part's first bad rows, by row, then by field."""
    any_bad = np.logical_or.reduce(list(marks.values()))
    rows = np.flatnonzero(any_bad)[:MOST_TOLD]
    texts = {
        name: field_text(series_of(_taken(batch.column(reading.columns[name]), rows))).to_list()
        for name in FIELDS
    }
    for place, row in enumerate(rows.tolist()):
        at = start + row
        if marks[""][row]:
            yield Fault(("rows", at), "the row is empty", "missing")
        for name in FIELDS:
            if marks[name][row]:
                words: Words = {"Store": settled.stores, "Date": settled.dates}.get(name, {})
                code = int(records[name][row])
                said = words.get(code, ("", "")) if code >= 0 else ("", "")
                if not said[0]:
                    got = None if code == MISSING else texts[name][place]
                    said = wrong(name, got, reading.date_format)
                yield Fault(("rows", at, name), *said)


def _taken(column: pa.Array, rows: npt.NDArray[np.int64]) -> pa.Array:
    found = column.take(arrow_of(rows))
    return found.dictionary_decode() if pa.types.is_dictionary(found.type) else found
