"""The file of a row: fetched, found where others keep it, refused where it is another."""

from __future__ import annotations

import multiprocessing
import shutil
from pathlib import Path

import pytest

from densespec.errors import PackageMissing, WeightsError
from densespec.pretrained import downloading, fetching
from densespec.pretrained.fetching import fetch, is_here, local
from densespec.pretrained.places import cache_folder, own_place
from densespec.pretrained.registry import get_row
from densespec.pretrained.row import PretrainedWeights
from tests.pretrained.publishing_server import Publisher, zipped

pytest.importorskip("pooch", reason="pooch is not installed")
pytest.importorskip("filelock", reason="filelock is not installed")


REST = f"bytes={2 * downloading.CHUNK}-"
"""What is asked for after a transfer that broke behind two chunks."""


@pytest.fixture
def row(registry_file: Path) -> PretrainedWeights:
    return get_row("testing:Net.V1")


def left_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_file_is_fetched_once_and_then_found(
    row: PretrainedWeights, publisher: Publisher, cache: Path
) -> None:
    assert local(row) is None
    assert not is_here(row)
    found = fetch(row)
    assert found.path == own_place(row) == cache / "pretrained" / "testing" / "net-1.pth"
    assert found.path.read_bytes() == publisher.files["/net-1.pth"]
    assert fetch(row) == found
    assert is_here(row)
    assert publisher.asked == [("/net-1.pth", None)]
    assert left_of(found.path.parent) == {"net-1.pth"}


def test_a_file_in_an_archive_is_taken_out(registry_file: Path, contents: dict[str, bytes]) -> None:
    found = fetch(get_row("testing-cifar:cifar"))
    assert found.path.name == "cifar.pth"
    assert found.path.read_bytes() == contents["pytorchcv"]
    assert left_of(found.path.parent) == {"cifar.pth"}


@pytest.mark.parametrize("content", [b"no archive", zipped("another.pth", b"weights")])
def test_an_archive_without_the_file_is_refused_and_deleted(
    registry_file: Path, publisher: Publisher, content: bytes
) -> None:
    publisher.files["/cifar.pth.zip"] = content
    row = get_row("testing-cifar:cifar")
    with pytest.raises(WeightsError, match=r"cifar\.pth\.zip: no archive with cifar\.pth in it"):
        fetch(row)
    assert left_of(own_place(row).parent) == set()


def test_a_wrong_digest_is_refused_and_the_file_deleted(
    row: PretrainedWeights, publisher: Publisher
) -> None:
    publisher.files["/net-1.pth"] = b"other weights"
    with pytest.raises(WeightsError, match=r"has the digest sha256:\w+, but should have sha256:"):
        fetch(row)
    assert left_of(own_place(row).parent) == set()


def test_a_file_that_was_put_there_by_hand_is_checked(
    row: PretrainedWeights, publisher: Publisher
) -> None:
    place = own_place(row)
    place.parent.mkdir(parents=True)
    place.write_bytes(publisher.files["/net-1.pth"])
    assert fetch(row).path == place
    place.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match="it is not the file that was published"):
        local(row)
    assert not place.exists()
    assert publisher.asked == []


def test_what_another_program_has_is_used_where_it_lies(
    row: PretrainedWeights, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = tmp_path / "home" / "checkpoints" / "net-1.pth"
    theirs.parent.mkdir(parents=True)
    theirs.write_bytes(publisher.files["/net-1.pth"])
    assert not is_here(row)
    monkeypatch.setenv("TESTING_HOME", str(tmp_path / "home"))
    assert is_here(row)
    assert fetch(row).path == theirs
    assert publisher.asked == []


def test_what_another_program_has_with_a_wrong_digest_is_left_alone(
    row: PretrainedWeights, publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TESTING_HOME", str(tmp_path))
    theirs = tmp_path / "checkpoints" / "net-1.pth"
    theirs.parent.mkdir()
    theirs.write_bytes(b"something else")
    assert fetch(row).path == own_place(row)
    assert theirs.read_bytes() == b"something else"


def test_a_transfer_that_breaks_is_gone_on_with(
    row: PretrainedWeights, publisher: Publisher
) -> None:
    publisher.breaks = [2 * downloading.CHUNK]
    with pytest.raises(WeightsError, match="is not here, and can't be fetched"):
        fetch(row)
    assert left_of(own_place(row).parent) == {"net-1.pth.part"}
    found = fetch(row)
    assert found.path.read_bytes() == publisher.files["/net-1.pth"]
    assert [wanted for _, wanted in publisher.asked] == [None, REST]
    assert left_of(found.path.parent) == {"net-1.pth"}


def test_a_transfer_that_breaks_is_tried_again(
    row: PretrainedWeights, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "RETRIES", 1)
    publisher.breaks = [2 * downloading.CHUNK]
    assert fetch(row).path.read_bytes() == publisher.files["/net-1.pth"]
    assert [wanted for _, wanted in publisher.asked] == [None, REST]


def test_a_server_that_sends_everything_again_is_understood(
    row: PretrainedWeights, publisher: Publisher
) -> None:
    publisher.breaks, publisher.ignores_ranges = [2 * downloading.CHUNK], True
    with pytest.raises(WeightsError, match="can't be fetched"):
        fetch(row)
    assert fetch(row).path.read_bytes() == publisher.files["/net-1.pth"]


def test_what_an_older_transfer_has_brought_of_another_file_is_dropped(
    row: PretrainedWeights, publisher: Publisher
) -> None:
    part = own_place(row).with_name("net-1.pth.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"x" * 1000)
    assert fetch(row).path.read_bytes() == publisher.files["/net-1.pth"]
    assert [wanted for _, wanted in publisher.asked] == ["bytes=1000-", None]


def test_nothing_is_gone_on_with_where_no_digest_would_tell(
    registry_file: Path, publisher: Publisher
) -> None:
    row = get_row("testing:nobody")
    publisher.breaks = [2 * downloading.CHUNK]
    with pytest.raises(WeightsError, match="can't be fetched"):
        fetch(row)
    found = fetch(row)
    assert [wanted for _, wanted in publisher.asked] == [None, None]
    (assumption,) = found.assumptions
    assert assumption.startswith("its publisher states no digest of testing:nobody")


def test_without_a_network_the_error_says_what_to_put_where(
    row: PretrainedWeights, publisher: Publisher
) -> None:
    publisher.server.server_close()
    with pytest.raises(WeightsError) as caught:
        fetch(row)
    assert f"can't be fetched from {publisher.address}/net-1.pth: " in str(caught.value)
    assert f"put it here at {own_place(row)}. Its digest, {row.digest}, is checked" in str(
        caught.value
    )


def test_of_an_archive_the_error_names_the_archive(
    registry_file: Path, publisher: Publisher
) -> None:
    row = get_row("testing-cifar:cifar")
    content = publisher.files.pop("/cifar.pth.zip")
    place = own_place(row).with_name("cifar.pth.zip")
    with pytest.raises(WeightsError, match=r"cifar\.pth\.zip: 404 Not Found\.") as caught:
        fetch(row)
    assert f"put it here at {place}." in str(caught.value)
    place.write_bytes(content)
    assert is_here(row)
    assert fetch(row).path == own_place(row)


def test_what_is_not_there_is_asked_for_once(
    row: PretrainedWeights, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloading, "RETRIES", 2)
    del publisher.files["/net-1.pth"]
    with pytest.raises(WeightsError, match="404 Not Found"):
        fetch(row)
    assert len(publisher.asked) == 1


def _fetched_size(name: str) -> int:
    return fetch(get_row(name)).path.stat().st_size


def test_two_processes_fetch_a_file_once(row: PretrainedWeights, publisher: Publisher) -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        sizes = pool.map(_fetched_size, [row.name] * 4, chunksize=1)
    assert sizes == [len(publisher.files["/net-1.pth"])] * 4
    assert len(publisher.asked) == 1


def test_a_folder_that_can_not_be_written_into_is_named(
    row: PretrainedWeights, cache: Path
) -> None:
    cache.write_text("no folder")
    with pytest.raises(WeightsError, match="can't be written into"):
        fetch(row)


def test_the_cache_is_where_the_platform_has_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    platformdirs = pytest.importorskip("platformdirs", reason="platformdirs is not installed")
    monkeypatch.delenv("DENSESPEC_CACHE", raising=False)
    assert cache_folder() == platformdirs.user_cache_path("densespec", appauthor=False)
    monkeypatch.setenv("DENSESPEC_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path


def test_without_pooch_the_extra_is_named(
    row: PretrainedWeights, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(PackageMissing, match=r"pip install 'densespec\[pretrained\]'"):
        fetch(row)


def test_a_read_only_cache_that_has_the_file_is_enough(
    row: PretrainedWeights, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = own_place(row)
    place.parent.mkdir(parents=True)
    place.write_bytes(publisher.files["/net-1.pth"])
    monkeypatch.setattr(fetching, "_alone", None)  # nothing is locked, so nothing is written
    assert fetch(row).path == place
    shutil.rmtree(place.parent)
