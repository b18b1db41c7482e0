"""The page about trained weights: its code and its commands run, and it names what there is."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from densespec import get
from densespec.cli import main
from densespec.pretrained import registry as registry_module
from densespec.pretrained.registry import find, get_row, registry
from tests.pretrained.publishing_server import Publisher, digest, noisy_image, torchvision_file

pytest.importorskip("pooch", reason="pooch is not installed")
pytest.importorskip("torch", reason="PyTorch is not installed")
image_module = pytest.importorskip("PIL.Image", reason="Pillow is not installed")

PAGE = (Path(__file__).parents[2] / "docs" / "pretrained.md").read_text(encoding="utf-8")
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
ROWS = registry_module.FOLDER / "torchvision.toml"


def blocks(language: str, text: str = PAGE) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file like torchvision's of the whole densenet121, with random weights."""
    return torchvision_file(tmp_path_factory.mktemp("whole"), get("densenet121"))


@pytest.fixture
def published(
    network: bytes, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Publisher]:
    """torchvision's rows, whose first one points at a server on this machine; and some images."""
    row = get_row("DenseNet121_Weights.IMAGENET1K_V1")
    (tmp_path / "rows").mkdir()
    with Publisher({f"/{row.file}": network}) as publisher:
        text = ROWS.read_text().replace(str(row.address), f"{publisher.address}/{row.file}")
        text = text.replace(str(row.digest), digest(network)[: len(str(row.digest))])
        (tmp_path / "rows" / "torchvision.toml").write_text(text)
        monkeypatch.setattr(registry_module, "FOLDER", tmp_path / "rows")
        _make_images(tmp_path)
        monkeypatch.chdir(tmp_path)
        yield publisher


def _make_images(folder: Path) -> None:
    for index, name in enumerate(("cat.jpg", "dog.jpg")):
        image_module.fromarray(noisy_image(index)).save(folder / name)
    for index, name in enumerate(("tench", "goldfish", "koala")):
        for part in ("train", "test"):
            place = folder / "photos" / part / name
            place.mkdir(parents=True)
            for number in range(2):
                picture = image_module.fromarray(noisy_image(index + number))
                picture.save(place / f"{number}.jpg")


def test_the_code_runs(published: Publisher, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    for block in blocks("python")[:-1]:
        exec(block, names)
    shown = capsys.readouterr().out
    assert len(re.findall(r"^ +[\d.]+%  .+  n\d{8}$", shown, re.M)) == 5
    assert "densenet121 1000 torchvision:DenseNet121_Weights.IMAGENET1K_V1 (http" in shown
    assert "(224, 224) bilinear" in shown
    assert names["batch"].shape == (2, 224, 224, 3)
    assert names["x"].shape == (2, 3, 224, 224)
    assert len(published.asked) == 1

    names["model"] = names["densespec"].build("densenet121", weights="imagenet", backend="torch.nn")
    exec(blocks("python")[-1], names)
    assert names["measured"].confusion.shape == (3, 4)


def test_the_commands_run(published: Publisher, tmp_path: Path) -> None:
    for block in blocks("console"):
        for line in block.splitlines():
            done = CliRunner().invoke(main, shlex.split(line)[1:])
            assert done.exit_code == 0, f"{line}\n{done.output}"
    assert len(published.asked) == 1
    assert (tmp_path / "sheet.png").exists()
    assert (tmp_path / "confusion.png").exists()


def test_the_first_example_of_the_readme_runs(
    published: Publisher, capsys: pytest.CaptureFixture[str]
) -> None:
    exec(blocks("python", README)[0], {})
    assert len(capsys.readouterr().out.splitlines()) == 5


def test_the_readme_counts_the_names() -> None:
    said = " ".join(README.split())
    assert f"`densespec weights` lists {len(registry())} trained weights" in said


def test_the_names_on_the_page_are_there() -> None:
    cells = re.findall(r"^\| (`[^|]+) \| [^|]+ \|$", PAGE.partition("## Names")[2], re.M)
    names = [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]
    tested = [name for name in names if "..." not in name and not name.startswith(("$", "~"))]
    assert len(tested) > 8
    for name in tested:
        assert find(name, get("densenet121")) is not None, name


def test_folders_on_the_page_are_those_of_the_rows() -> None:
    places = {place for row in registry().values() for place in row.elsewhere}
    assert {place for place in places if f"`{place}`" not in PAGE} == {
        "$XDG_CACHE_HOME/torch/hub/checkpoints"
    }


def test_the_rows_on_the_page_are_a_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (example,) = blocks("toml")
    (tmp_path / "lab.toml").write_text(example)
    monkeypatch.setenv("DENSESPEC_PRETRAINED", str(tmp_path / "lab.toml"))
    assert get_row("lab:cats").labels == ("tom", "felix")
