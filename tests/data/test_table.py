"""Tables of image files and their labels."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec import data
from densespec.data import DataError
from densespec.errors import PackageMissing

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
    with pytest.raises(DataError, match=r"a table ends in \.csv or \.parquet"):
        data.load(f"table:{folder / 'table.xlsx'}")


# Parquet

SPLIT = ["train"] * 3 + ["val"]


def parquet(folder: Path, columns: dict[str, Any]) -> str:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow.parquet import write_table

    count = len(next(iter(columns.values())))
    paths = {"path": [f"images/{name}.png" for name in NAMES[:count]]}
    write_table(pyarrow.table(paths | columns), folder / "table.parquet")
    return f"table:{folder / 'table.parquet'}"


def same(found: data.Dataset, expected: data.Dataset) -> None:
    assert found.classes == expected.classes
    for part in ("train", "test"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        np.testing.assert_array_equal(ours.y, theirs.y)
        assert ours.x.paths == theirs.x.paths


@pytest.mark.parametrize(
    ("columns", "head", "cells"),
    [
        ({"class": ["dog", "cat"] * 5}, "path,class", ["dog", "cat"] * 5),
        ({"class": [10, 2] * 5}, "path,class", ["10", "2"] * 5),
        (
            {
                "edema": [1.0, None, 0.5, -1.0],
                "tear": [1, 0, None, 1],
                "split": SPLIT,
            },
            "path,edema,tear,split",
            ["1.0,1,train", ",0,train", "0.5,,train", "-1,1,val"],
        ),
        (
            {"labels": [["cat"], [], ["dog", "cat"], None], "split": SPLIT},
            "path,labels,split",
            ["cat|,train", ",train", "dog|cat,train", ",val"],
        ),
    ],
)
def test_parquet_means_what_the_same_cells_mean_in_csv(
    folder: Path, columns: Any, head: str, cells: list[str]
) -> None:
    same(data.load(parquet(folder, columns)), data.load(table(folder, head, cells)))


def test_true_and_false_are_labels(folder: Path) -> None:
    columns = {"a": [True, False] * 5, "b": [False, None] * 5}
    found = data.load(parquet(folder, columns)).train.y
    assert set(found[:, 0]) == {0, 1}
    assert np.isnan(found[:, 1]).any()


def test_lists_of_one_label_are_several_labels(folder: Path) -> None:
    assert data.load(parquet(folder, {"labels": [["cat"], ["dog"]] * 5})).has_several


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"labels": [["a|b"]]}, "row 2: labels is .* a list of labels without"),
        (
            {"image2": [{"bytes": b"x"}], "label": [1]},
            "row 2: image2 is .* Hugging Face's datasets",
        ),
        ({"when": [b"x"]}, "row 2: when is b'x', but should be a text"),
        ({"class": [None]}, "row 2: class is empty"),
        ({"class": []}, "has no row"),
    ],
)
def test_parquet_that_says_nothing_clear_is_refused(
    folder: Path, columns: Any, message: str
) -> None:
    with pytest.raises(DataError, match=rf"table\.parquet.*{message}"):
        data.load(parquet(folder, columns))


def test_parquet_that_is_damaged_is_refused_by_name(folder: Path) -> None:
    text = parquet(folder, {"class": ["dog", "cat"] * 5})
    path = folder / "table.parquet"
    whole = path.read_bytes()
    draw = np.random.default_rng(1)
    for _ in range(40):
        damaged = bytearray(whole)
        for place in draw.integers(0, len(whole), 4):
            damaged[place] = draw.integers(0, 256)
        path.write_bytes(damaged[: draw.integers(0, len(whole) + 1)])
        with contextlib.suppress(DataError):
            data.load(text)
    path.write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(DataError, match=r"table\.parquet: "):
        data.load(text)


def test_the_package_that_reads_parquet_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "pyarrow" else find(name)
    )
    (folder / "table.parquet").write_bytes(b"PAR1")
    with pytest.raises(PackageMissing, match=r"pip install 'densespec\[parquet\]'"):
        data.load(f"table:{folder / 'table.parquet'}")
