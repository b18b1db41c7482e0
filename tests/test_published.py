"""What packages publish is found by group and name, and what can't be loaded is named."""

from __future__ import annotations

import pytest

from densespec import published
from densespec.errors import BackendUnavailable, PackageMissing, UnknownName
from tests.publishing import publish, publish_places

GROUP = "densespec.tests"


def test_names_are_those_of_the_group_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, GROUP, second=2, first=1)
    assert published.names(GROUP) == ("first", "second")
    assert published.names("densespec.others") == ()


def test_what_is_published_is_loaded_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, GROUP, second=2, first=1)
    assert published.load(GROUP, "number", "second") == 2


def test_an_unknown_name_is_answered_with_near_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, GROUP, second=2, first=1)
    with pytest.raises(UnknownName, match=r"unknown number 'secnd'\. Did you mean second\?"):
        published.load(GROUP, "number", "secnd")


@pytest.mark.parametrize(
    ("place", "reason"),
    [("absent_package:X", "No module named 'absent_package'"), ("json:ABSENT", "'ABSENT'")],
)
def test_what_can_not_be_loaded_is_named(
    place: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_places(monkeypatch, GROUP, broken=place)
    with pytest.raises(BackendUnavailable, match=rf"^number 'broken' can't be loaded: .*{reason}"):
        published.load(GROUP, "number", "broken")


def test_a_missing_package_stays_one() -> None:
    def load() -> None:
        raise PackageMissing("it", "torch", "torch")

    with pytest.raises(PackageMissing):
        published.loaded("number", "one", load)
