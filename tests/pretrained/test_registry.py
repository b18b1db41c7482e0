"""The registry: every row is whole, and a name means one."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from densespec import get, lower
from densespec.errors import UnknownName, WeightsError
from densespec.pretrained.labels import label_set, label_sets
from densespec.pretrained.registry import FOLDER, find, get_row, nearest_names, registry
from densespec.pretrained.row import PretrainedWeights
from densespec.weights.layouts import layouts
from tests.publishing import publish
from tests.strategies import tiny

ROWS = list(registry().values())
each_row = pytest.mark.parametrize("row", ROWS, ids=[row.name for row in ROWS])

TORCHVISION = "torchvision:DenseNet121_Weights.IMAGENET1K_V1"


def _plain(value: object) -> bool:
    """Whether a field says nothing."""
    return value is None or value in ((), {})


@each_row
def test_every_field_has_a_source(row: PretrainedWeights) -> None:
    own = {"publisher", "key", "sources"}
    stated = {
        field.name
        for field in dataclasses.fields(row)
        if field.name not in own and not _plain(getattr(row, field.name))
    }
    stated -= {"file"} if row.address else set()  # the end of the address
    assert stated <= row.sources.keys()
    assert all(row.sources.values())


@each_row
def test_a_row_goes_with_what_is_there(row: PretrainedWeights) -> None:
    assert row.layout in layouts()
    assert row.source.startswith("https://")
    assert row.source.removesuffix(f".{row.archive}").endswith(row.file)
    graph = lower(row.spec, include_top=row.classifier)
    prepared = row.preprocessing
    if prepared is not None:
        assert (prepared.channels, len(prepared.size)) == (graph.spec.in_channels, 2)


@each_row
def test_a_row_has_a_digest_but_where_nobody_states_one(row: PretrainedWeights) -> None:
    assert (row.digest is None) == (
        row.publisher == "torchxrayvision" or row.repository is not None
    )


def test_imagenet_means_one_file_for_each_network() -> None:
    found = {row.key: row.spec for row in ROWS if "imagenet" in row.tags}
    assert found == {
        f"DenseNet{depth}_Weights.IMAGENET1K_V1": get(f"densenet{depth}")
        for depth in (121, 161, 169, 201)
    }


@pytest.mark.parametrize(
    "name",
    [
        TORCHVISION,
        "DenseNet121_Weights.IMAGENET1K_V1",
        "imagenet",
        "IMAGENET1K_V1",
        "DEFAULT",
    ],
)
@pytest.mark.parametrize("changes", [{}, {"classes": 7}, {"dropout_rate": 0.2}, {"in_channels": 1}])
def test_a_name_means_a_row(name: str, changes: dict[str, float]) -> None:
    row = find(name, get("densenet121").replace(**changes))
    assert row is not None
    assert row.name == TORCHVISION


@pytest.mark.parametrize("prefix", ["", "hf_hub:", "hf-hub:"])
@pytest.mark.parametrize("revision", ["", "@0123abc"])
def test_an_id_of_the_hub_means_its_row(prefix: str, revision: str) -> None:
    row = get_row(f"{prefix}timm/densenet121.ra_in1k{revision}")
    assert row.name == "timm:densenet121.ra_in1k"
    assert row.revision == (revision.removeprefix("@") or None)


def test_a_tag_without_a_network_says_which_there_are() -> None:
    with pytest.raises(WeightsError, match="give the network too, or the exact name, torchvision:"):
        find("imagenet")


def test_a_tag_of_no_such_network_says_which_there_are() -> None:
    with pytest.raises(WeightsError, match="no weights called 'imagenet' of this network"):
        find("imagenet", tiny())


def test_an_unknown_name_suggests_near_ones() -> None:
    assert find("torchvision:DenseNet121_Weights.IMAGENET1K_V2") is None
    with pytest.raises(UnknownName, match=rf"Did you mean {TORCHVISION} or "):
        get_row("torchvision:DenseNet121_Weights.IMAGENET1K_V2")
    assert nearest_names("imagent").startswith("Did you mean imagenet or ")


@pytest.fixture
def own_file(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text("""
        publisher = "own"
        [common]
        data = "photos"
        layout = "torchvision"
        licence = "CC0-1.0"
        preprocessing = { mean = [0.5], std = [0.5], size = [64, 64] }
        [common.spec]
        variant = "densenet121"
        in_channels = 1
        [weights.net]
        address = "https://example.org/net.pth"
        digest = "sha256:0123456789abcdef"
        spec = { classes = 2 }
        labels = ["cat", "dog"]
    """)
    return path


def test_others_add_rows_by_an_entry_point(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(monkeypatch, "densespec.pretrained", own=own_file)
    row = get_row("own:net")
    assert row.spec == get("densenet121").replace(in_channels=1, classes=2)
    assert row.labels == ("cat", "dog")
    assert row.file == "net.pth"


def test_users_add_rows_by_a_file(own_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSESPEC_PRETRAINED", str(own_file))
    assert get_row("net").name == "own:net"


def test_a_name_of_two_rows_says_which_they_are(
    own_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other.toml"
    other.write_text(own_file.read_text().replace('"own"', '"other"'))
    monkeypatch.setenv("DENSESPEC_PRETRAINED", f"{own_file}:{other}")
    with pytest.raises(WeightsError, match="'net' means own:net, other:net: give one of these"):
        find("net")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("publisher", "publishr", "no registry of weights: KeyError"),
        ("sha256:", "sha256:x", "net: digest: digest = 'sha256:x0123"),
        ("digest", "diggest", "net: unknown diggest"),
        ("data =", "# data =", "net: without data"),
        ("densenet121", "densenet12", "net: spec: unknown variant 'densenet12'"),
        ("classes = 2", "classes = 3", "net: 2 labels, but 3 classes"),
        ("mean = [0.5]", 'mean = ["x"]', "net: preprocessing: preprocessing: mean = "),
        ("address =", "repository =", "net: without file"),
        ("[weights.net]", "[[weights.net]", "no registry of weights: TOMLDecodeError"),
    ],
)
def test_a_file_that_is_no_registry_is_named(
    own_file: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, message: str
) -> None:
    own_file.write_text(own_file.read_text().replace(old, new))
    monkeypatch.setenv("DENSESPEC_PRETRAINED", str(own_file))
    with pytest.raises(WeightsError) as caught:
        registry()
    assert str(caught.value).startswith(str(own_file))
    assert message in str(caught.value)


def test_an_absent_file_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSESPEC_PRETRAINED", "gone.toml")
    with pytest.raises(WeightsError, match=r"gone\.toml: No such file"):
        registry()


def test_a_second_row_of_a_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENSESPEC_PRETRAINED", str(FOLDER / "timm.toml"))
    with pytest.raises(WeightsError, match="is a second one of this name"):
        registry()


def test_labels_have_names_and_identifiers() -> None:
    imagenet = label_set("imagenet")
    assert len(set(imagenet.identifiers)) == len(imagenet.names) == 1000
    assert imagenet.identifiers == tuple(sorted(imagenet.identifiers))
    assert (imagenet.names[1], imagenet.identifiers[1]) == ("goldfish", "n01443537")
    assert label_set("svhn").names == tuple("0123456789")
    with pytest.raises(UnknownName, match="Did you mean imagenet"):
        label_set("imagent")
    assert label_sets() == ("imagenet", "svhn")
