"""Weights on the Hugging Face Hub, through huggingface_hub itself and a Hub on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from densespec.network.graph import lower
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.convert import convert
from tests.pretrained.publishing_server import COMMIT, Publisher
from tests.test_convert import SPEC, random_weights

pytest.importorskip("huggingface_hub", reason="huggingface_hub is not installed")

ROWS = f"""
publisher = "hub"
[weights."net.v1"]
repository = "user/net.v1"
file = "model.safetensors"
data = "noise"
layout = "torchvision"
licence = "CC0-1.0"
spec = {{ variant = "densenet121", blocks = {list(SPEC.blocks)}, classes = {SPEC.classes} }}
"""

PROGRAM = """
import json, sys
import densespec
from densespec.errors import DensespecError
try:
    model = densespec.build(None, backend="numpy", weights=sys.argv[1])
except DensespecError as error:
    print(json.dumps({"error": str(error)}))
else:
    told = model.densespec.accompaniment.provenance
    print(json.dumps({"name": told.name, "address": told.address, "digest": told.digest}))
"""


@pytest.fixture
def hub(tmp_path: Path) -> Any:
    """A Hub that has one network, in torchvision's names."""
    net, theirs = tmp_path / "net.safetensors", tmp_path / "theirs.safetensors"
    write_checkpoint(net, lower(SPEC), random_weights(SPEC))
    convert(net, theirs, to_layout="torchvision")
    content = theirs.read_bytes()
    revisions = ("main", COMMIT)
    files = {f"/user/net.v1/resolve/{at}/model.safetensors": content for at in revisions}
    (tmp_path / "rows.toml").write_text(ROWS)
    with Publisher(files) as publisher:
        yield publisher


def asked(hub: Publisher, folder: Path, name: str, **changes: str) -> dict[str, str]:
    """What a process of its own says of a network of this name: the Hub is asked at import."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.address,
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "DENSESPEC_PRETRAINED": str(folder / "rows.toml"),
    }
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, name],
        env=environment | changes,
        capture_output=True,
        text=True,
        check=True,
    )
    told: dict[str, str] = json.loads(done.stdout)
    return told


def test_a_file_of_the_hub_is_fetched_once_and_known_by_its_commit(
    hub: Publisher, tmp_path: Path
) -> None:
    told = asked(hub, tmp_path, "user/net.v1")
    assert told["name"] == f"hub:net.v1@{COMMIT}"
    assert told["address"] == (
        f"https://huggingface.co/user/net.v1/resolve/{COMMIT}/model.safetensors"
    )
    count = len(hub.asked)
    assert asked(hub, tmp_path, "net.v1", HF_HUB_OFFLINE="1") == told
    assert asked(hub, tmp_path, f"user/net.v1@{COMMIT}", HF_HUB_OFFLINE="1") == told
    assert len(hub.asked) == count


def test_a_damaged_file_in_the_hubs_cache_is_refused_and_deleted(
    hub: Publisher, tmp_path: Path
) -> None:
    told = asked(hub, tmp_path, "user/net.v1")
    (blob,) = (path for path in tmp_path.rglob("blobs/*") if path.is_file())
    blob.write_bytes(b"damaged")
    error = asked(hub, tmp_path, "user/net.v1")["error"]
    assert f"should have {told['digest']}: it is damaged, and has been deleted" in error
    assert asked(hub, tmp_path, "user/net.v1") == told


def test_without_a_network_the_error_says_how_to_get_the_file(
    hub: Publisher, tmp_path: Path
) -> None:
    error = asked(hub, tmp_path, f"user/net.v1@{COMMIT}", HF_HUB_OFFLINE="1")["error"]
    assert "hub:net.v1 is not here, and can't be fetched from https://huggingface.co/" in error
    assert f"`hf download user/net.v1 model.safetensors --revision {COMMIT}`" in error
    assert str(tmp_path / "hf") in error
