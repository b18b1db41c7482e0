"""The page about data: its example runs, and it says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from densespec.data import AUGMENTATIONS, SOURCES
from densespec.data.draws import raw
from densespec.data.sources import cifar, folder

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.S)


def test_the_first_example_runs() -> None:
    names: dict[str, Any] = {}
    exec(EXAMPLES[0], names)
    assert names["x"].shape == (1438 % 64, 1, 8, 8)
    assert all(len(mask) == len(names["y"]) for mask in names["masks"].values())
    assert names["masks"]


def test_the_stream_on_the_page_is_that_of_the_code() -> None:
    names: dict[str, Any] = {}
    (example,) = (text for text in EXAMPLES if "def stream" in text)
    exec(example, names)
    np.testing.assert_array_equal(names["stream"](3, "order", 7, 9), raw(3, "order", 7, 9))


@pytest.mark.parametrize(
    "text",
    [
        *(f"`{name}" for name in SOURCES),
        *(f"**`{name}`**" for name in AUGMENTATIONS),
        *(f"`{name}`" for name in folder.TESTS),
        *(
            f"| `{release.archive}` | `{release.md5}` |"
            for data in cifar.PUBLISHED.values()
            for release in data.releases
        ),
        *(f"`{release.folder}`" for data in cifar.PUBLISHED.values() for release in data.releases),
        cifar.PAGE,
    ],
)
def test_the_page_names(text: str) -> None:
    assert text in PAGE
