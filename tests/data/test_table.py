"""Tables of image files and their labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from densespec import data
from densespec.data import DataError

NAMES = tuple("abcdefghij")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Ten grey images, the index of each in its pixels."""
    image = pytest.importorskip("PIL.Image")
    (tmp_path / "images").mkdir()
    for index, name in enumerate(NAMES):
        image.new("L", (4, 3), index).save(tmp_path / "images" / f"{name}.png")
    return tmp_path


def table(folder: Path, head: str, cells: list[str]) -> str:
    rows = [f"images/{name}.png,{cell}" for name, cell in zip(NAMES, cells, strict=False)]
    (folder / "table.csv").write_text("\n".join([head, *rows]) + "\n")
    return f"table:{folder / 'table.csv'}"


def test_classes_by_name(folder: Path) -> None:
    found = data.load(table(folder, "path,class", ["dog", "cat"] * 5), channels=1)
    assert found.classes == ("cat", "dog")
    assert (len(found.train), len(found.test)) == (8, 2)
    for part in (found.train, found.test):
        for index in range(len(part)):
            assert part.image(index)[0, 0, 0] % 2 == 1 - part.y[index]


def test_lists_of_labels(folder: Path) -> None:
    cells = ["cat|dog,train", "cat,train", ",train", "dog | bird,test"]
    found = data.load(table(folder, "file,labels,split", cells))
    assert found.classes == ("bird", "cat", "dog")
    assert found.has_several
    np.testing.assert_array_equal(found.train.y, [[0, 1, 1], [0, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(found.test.y, [[1, 0, 1]])


def test_a_column_for_each_label(folder: Path) -> None:
    cells = ["1,0,train", ",-1,train", "0.5,1,val"]
    found = data.load(table(folder, "Image,edema,fracture,split", cells))
    assert found.classes == ("edema", "fracture")
    np.testing.assert_array_equal(found.train.y, [[1, 0], [np.nan, -1]])
    np.testing.assert_array_equal(found.test.y, [[0.5, 1]])
    found.check_loss("sigmoid")


@pytest.mark.parametrize(
    ("head", "cells", "message"),
    [
        ("path,class", [], "has no row below the one that names the columns"),
        ("where,class", ["cat"], "exactly one should be called path, file, filename, image"),
        ("path,file", ["x"], "exactly one should be called"),
        ("path,class", ["cat", ""], "row 3: class is empty, but should name a class"),
        ("path,class", ["cat,dog"], "row 2: has 3 cells, but there are 2 columns"),
        ("path,a,b", ["1,0", "1,female"], "row 3: b is 'female', but of several columns each"),
        ("path,class,split", ["a,train", "b,holdout"], "row 3: split is 'holdout', but should be"),
        ("path,class,split", ["a,train", "b,train"], "split should leave images to train on and"),
        ("path,a,a", ["1,0"], "each should have a name of its own"),
        ("path", ["x"], "has 2 cells, but there are 1 columns"),
    ],
)
def test_tables_that_say_nothing_clear_are_refused(
    folder: Path, head: str, cells: list[str], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        data.load(table(folder, head, cells))


def test_what_is_not_there_is_named(folder: Path) -> None:
    (folder / "table.csv").write_text("path,class\nimages/a.png,x\nimages/z.png,y\n")
    with pytest.raises(DataError, match=r"row 3: there is no file 'images/z\.png' beside"):
        data.load(f"table:{folder / 'table.csv'}")
    with pytest.raises(DataError, match="No such file"):
        data.load(f"table:{folder / 'other.csv'}")
    with pytest.raises(DataError, match=r"a table ends in \.csv"):
        data.load(f"table:{folder / 'table.xlsx'}")
