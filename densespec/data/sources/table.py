"""Reads a table of image files and their labels: a CSV or a parquet file.

The first row of a CSV file names the columns. The column ``path`` (or ``file``, ``filename`` or
``image``) says where an image is, from the folder of the table on. A column ``split`` says
``train``, or ``test`` (or ``val``, ``valid``, ``validation``); without one, a fifth is kept for the
test, as :func:`densespec.data.dataset.held_out` says. Further columns are the labels:

- One column: the class of the image, by its name; or where any cell has a ``|``, a list of the
  labels that it has, separated so.
- Several columns: a label each, by a number; an empty cell is a label that is not known.

A parquet file is read by pyarrow and means what the same cells mean in a CSV file; null is an empty
cell, true and false are 1 and 0, and a column of lists is one of labels separated.

Classes are the sorted names, or the columns in their order. Images are read when they are needed.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from densespec.data.dataset import DataError, Dataset, Split, parted
from densespec.data.reading import normalisation_of
from densespec.data.reading.reader import ImageForm
from densespec.data.sources.files import image_files
from densespec.data.sources.folder import TESTS, TRAIN
from densespec.errors import DensespecError, bare, shown
from densespec.installed import imported
from densespec.texts import check_regular

PATHS = ("path", "file", "filename", "image")
SPLIT = "split"
BETWEEN = "|"
"""This character separates the labels of a list."""

PARQUET = "parquet"
MOST_CELLS = 2**25
"""A parquet table may have at most this many cells: a few packed bytes can claim any number."""

Column = Sequence[str]


def load(place: str, form: ImageForm) -> Dataset:
    """Load the data set of a table.

    Args:
        place: The path of the table.
        form: In which form images are read.

    Raises:
        DataError: There is no such file, or its columns are not as they should be; the message
            names the file, and the row where there is one.
    """
    path = Path(place).expanduser()
    columns = _columns(path)
    paths = _paths(path, columns)
    parts = columns.pop(SPLIT, None)
    classes, labels = _labels(path, columns)
    whole = Split(image_files(path.parent, paths, form), labels)
    train, test = parted(whole) if parts is None else _split(path, whole, parts)
    return Dataset(path.name, classes, train, test, normalisation_of(train))


def _columns(path: Path) -> dict[str, Column]:
    """Read the columns of a table by their names; names and cells without spaces around them."""
    suffix = path.suffix.lower()
    if suffix not in READ:
        raise DataError(f"{path}: a table ends in {' or '.join(READ)}")
    try:
        check_regular(path)
        names, cells = READ[suffix](path)
    except DensespecError:
        raise
    except Exception as error:  # pyarrow's own errors, which share no base with csv's
        reason = error.strerror if isinstance(error, OSError) else None
        raise DataError(f"{path}: {reason or bare(str(error))}") from error
    if not cells or not cells[0]:
        raise DataError(f"{path}: has no row below the one that names the columns")
    if len(set(names)) < len(names) or "" in names:
        raise DataError(f"{path}: columns {shown(names)}, but each should have a name of its own")
    return dict(zip(names, cells, strict=True))


def _of_csv(path: Path) -> tuple[list[str], list[Column]]:
    """Return the names of the columns and their cells."""
    text = path.read_text(encoding="utf-8-sig")
    lines = csv.reader(io.StringIO(text), strict=True)
    names, *rows = [[cell.strip() for cell in line] for line in lines if line] or [[]]
    for number, row in enumerate(rows, start=2):
        if len(row) != len(names):
            raise DataError(
                f"{path}, row {number}: has {len(row)} cells, but there are {len(names)} columns"
            )
    return names, [list(column) for column in zip(*rows, strict=True)]


def _of_parquet(path: Path) -> tuple[list[str], list[Column]]:
    """Return the names of the columns and their cells, as texts."""
    parquet = imported("reading parquet tables", "pyarrow.parquet", extra=PARQUET)
    with parquet.ParquetFile(path) as file:
        most = MOST_CELLS // max(1, file.metadata.num_columns)
        if file.metadata.num_rows > most:
            raise DataError(
                f"{path}: has {file.metadata.num_rows} rows, but should have at most {most}"
            )
        table = file.read()
    names = [name.strip() for name in table.column_names]
    cells: list[Column] = [
        [_text(path, number, name, value) for number, value in enumerate(column.to_pylist(), 2)]
        for name, column in zip(names, table.columns, strict=True)
    ]
    return names, cells


def _text(path: Path, number: int, name: str, value: Any) -> str:
    """Write the cell of a parquet table as in a CSV file."""
    match value:
        case None:
            return ""
        case bool():
            return str(int(value))
        case str() | int() | float():
            return str(value).strip()
        case list() if all(isinstance(label, str | int) for label in value):
            labels = [*map(str, value), ""]  # one that ends in what separates is a list
            if not any(BETWEEN in label for label in labels):
                return BETWEEN.join(labels)
    raise DataError(
        f"{path}, row {number}: {name} is {shown(value)}, but should be a text, a number, or a "
        f"list of labels without {BETWEEN!r}; images within a table are read by Hugging Face's "
        "datasets, which data.of_items takes"
    )


READ: Mapping[str, Callable[[Path], tuple[list[str], list[Column]]]] = {
    ".csv": _of_csv,
    ".parquet": _of_parquet,
}
"""Gives the function that reads a table, by how its name ends."""


def _paths(path: Path, columns: dict[str, Column]) -> Column:
    """Take the column of paths out of the columns."""
    found = [name for name in columns if name.lower() in PATHS]
    if len(found) != 1:
        raise DataError(
            f"{path}: has the columns {shown([*columns])}, but exactly one should be called "
            f"{', '.join(PATHS)}"
        )
    paths = columns.pop(found[0])
    for number, name in enumerate(paths, start=2):
        if not (path.parent / name).is_file():
            raise DataError(
                f"{path}, row {number}: there is no file {shown(name)} beside the table"
            )
    return paths


def _labels(path: Path, columns: Mapping[str, Column]) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the names of the classes, and the labels."""
    if not columns:
        raise DataError(f"{path}: has no column of labels")
    if len(columns) > 1:
        numbers = [_numbers(path, name, column) for name, column in columns.items()]
        return tuple(columns), np.stack(numbers, axis=1)
    ((name, column),) = columns.items()
    if any(BETWEEN in cell for cell in column):
        return _lists(column)
    for number, cell in enumerate(column, start=2):
        if not cell:
            raise DataError(f"{path}, row {number}: {name} is empty, but should name a class")
    classes = tuple(sorted(set(column)))
    return classes, np.array([classes.index(cell) for cell in column])


def _lists(column: Column) -> tuple[tuple[str, ...], np.ndarray]:
    """Return the labels of lists such as ``cat|dog``; an empty cell has none of them."""
    lists = [{part.strip() for part in cell.split(BETWEEN)} - {""} for cell in column]
    classes = tuple(sorted(set().union(*lists)))
    return classes, np.array([[float(name in given) for name in classes] for given in lists])


def _numbers(path: Path, name: str, column: Column) -> np.ndarray:
    numbers = np.full(len(column), np.nan)
    for index, cell in enumerate(column):
        try:
            numbers[index] = float(cell) if cell else np.nan
        except ValueError:
            raise DataError(
                f"{path}, row {index + 2}: {name} is {shown(cell)}, but of several columns each is "
                f"a label, a number or empty; leave out columns that are none"
            ) from None
    return numbers


def _split(path: Path, whole: Split, parts: Column) -> tuple[Split, Split]:
    """Part samples as the column ``split`` says."""
    for number, part in enumerate(parts, start=2):
        if part.lower() not in (TRAIN, *TESTS):
            raise DataError(
                f"{path}, row {number}: {SPLIT} is {shown(part)}, but should be {TRAIN}, or "
                f"{', '.join(TESTS)}"
            )
    trains = np.array([part.lower() == TRAIN for part in parts])
    if trains.all() or not trains.any():
        raise DataError(f"{path}: {SPLIT} should leave images to train on and to test on")
    return whole.take(np.flatnonzero(trains)), whole.take(np.flatnonzero(~trains))
