"""A publisher on this machine, and a registry whose rows point at it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from densespec.pretrained import downloading
from tests.pretrained.publishing_server import (
    CIFAR,
    KERAS,
    LABELS,
    Publisher,
    digest,
    keras_file,
    pytorchcv_file,
    torchvision_file,
    zipped,
)

SMALL = {"variant": "densenet121", "blocks": [1, 2, 1], "classes": 5}


@pytest.fixture(scope="session")
def contents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files that are published."""
    folder = tmp_path_factory.mktemp("published")
    return {
        "torchvision": torchvision_file(folder),
        "keras": keras_file(folder),
        "pytorchcv": pytorchcv_file(folder),
    }


@pytest.fixture
def publisher(contents: dict[str, bytes]) -> Iterator[Publisher]:
    """The server of them."""
    files = {
        "/net-1.pth": contents["torchvision"],
        "/net.h5": contents["keras"],
        "/cifar.pth.zip": zipped("cifar.pth", contents["pytorchcv"]),
        "/nobody.pth": contents["torchvision"],
    }
    with Publisher(files) as server:
        yield server


def rows_of(publisher: Publisher, contents: dict[str, bytes]) -> dict[str, Any]:
    """Networks for five classes of small images."""
    prepared = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "size": [32, 32], "crop": 0.875}
    return {
        "publisher": "testing",
        "sources": {"address": "a server on this machine"},
        "common": {
            "data": "noise",
            "layout": "torchvision",
            "licence": "CC0-1.0",
            "spec": SMALL,
            "preprocessing": prepared,
            "labels": list(LABELS),
            "elsewhere": ["$TESTING_HOME/checkpoints"],
        },
        "weights": {
            "Net.V1": {
                "address": f"{publisher.address}/net-1.pth",
                "digest": digest(contents["torchvision"])[: len("sha256:") + 8],
                "tags": ["imagenet", "V1"],
                "megabytes": 1.5,
                "errors": {"top1": 25.0},
            },
            "Keras": {
                "address": f"{publisher.address}/net.h5",
                "digest": digest(contents["keras"], "md5"),
                "layout": "keras-applications",
                "spec": KERAS,
            },
            "nobody": {"address": f"{publisher.address}/nobody.pth", "activation": "sigmoid"},
        },
    }


def rows_of_cifar(publisher: Publisher, contents: dict[str, bytes]) -> dict[str, Any]:
    """A network for CIFAR-10, in an archive."""
    spec = {name: value for name, value in CIFAR.to_dict().items() if value is not None}
    row = {
        "address": f"{publisher.address}/cifar.pth.zip",
        "archive": "zip",
        "digest": digest(contents["pytorchcv"], "sha1"),
        "layout": "pytorchcv-cifar",
        "licence": "CC0-1.0",
        "data": "cifar10",
        "spec": spec,
    }
    return {"publisher": "testing-cifar", "weights": {"cifar": row}}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty caches: densespec's, which is given, the other programs' and the Hub's."""
    monkeypatch.setenv("DENSESPEC_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("TORCH_HOME", "XDG_CACHE_HOME", "KERAS_HOME", "TESTING_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(downloading, "RETRIES", 0)
    return tmp_path / "cache"


@pytest.fixture
def registry_file(
    publisher: Publisher,
    contents: dict[str, bytes],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Path:
    """A registry whose rows point at the publisher, added as users add theirs."""
    path, other = tmp_path / "registry.toml", tmp_path / "cifar.toml"
    path.write_text(tomli_w.dumps(rows_of(publisher, contents)))
    other.write_text(tomli_w.dumps(rows_of_cifar(publisher, contents)))
    monkeypatch.setenv("DENSESPEC_PRETRAINED", f"{path}{os.pathsep}{other}")
    return path
