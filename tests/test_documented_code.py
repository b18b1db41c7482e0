"""Every block of Python in the documentation runs, and every ``densespec`` command is one.

A page runs in a process of its own, its blocks one after another, in a new folder. ``PAGES`` says
what has to be there before; what is titled with the name of another program is that program's.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import pytest

from densespec.cli import main
from densespec.installed import is_installed

ROOT = Path(__file__).parents[1]
RUNNER = ROOT / "tests" / "running_code.py"
TEXTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")))
}
ENGINES = ("tensorflow", "torch", "jax")


@dataclass(frozen=True)
class Page:
    """What a page's code needs.

    Attributes:
        before: code that makes what the page takes for granted.
        needs: packages without which it can't run.
        engine: the engine of Keras, where the code itself names none.
        full_size: whether the code goes by sizes of the named networks, which are small otherwise.
        full: whether it takes long.
    """

    before: str = ""
    needs: tuple[str, ...] = ()
    engine: str = ""
    full_size: bool = False
    full: bool = False


def _state_dict(file: str, options: str = "") -> str:
    """Code that writes a file as torchvision does."""
    return (
        f"import torch\n_model = densespec.build('densenet121', backend='torch.nn', {options})\n"
        f"torch.save(_model.state_dict(), {file!r})\n"
    )


def _converted(file: str, spec: str, options: str = "") -> str:
    """Code that writes a file of a network as another program does."""
    return (
        f"_model = densespec.build({spec}, backend='numpy', dtype='float32')\n"
        "densespec.save(_model, 'own.safetensors')\n"
        f"densespec.convert('own.safetensors', {file!r}{options})\n"
    )


KERAS = "batch_norm_epsilon=1.001e-5, batch_norm_momentum=0.01, running_variance='biased'"
"""What Keras's own networks have otherwise."""

SMALL = "densespec.DenseNetSpec(blocks=(2, 2), growth_rate=4, classes=5)"

LOADER = """
import torch
_data = [(torch.zeros(3, 32, 32), label % 5) for label in range(8)]
loader = train_loader = validation_loader = torch.utils.data.DataLoader(_data, batch_size=4)
"""

PAGES = {
    "docs/data.md": Page(
        "from densespec import data\n"
        "model = densespec.build(densespec.DenseNetSpec(blocks=(1,), growth_rate=4, in_channels=1, "
        "classes=10), backend='tensorflow')\n"
        "model.compile('sgd', 'mse')\n"
        "model.fit = lambda *args, **kwargs: None\n",
        ("sklearn", "torch", "keras", "tensorflow", "jax"),
        "tensorflow",
        full=True,
    ),
    "docs/deploy.md": Page(
        _state_dict("densenet121.pth") + "model = _model\n",
        ("torch", "onnx", "onnxruntime"),
        full=True,
    ),
    "docs/features.md": Page(full_size=True, needs=("safetensors",), full=True),
    "docs/old-keras.md": Page(
        f"model = densespec.build({SMALL}, backend='tensorflow')\n",
        ("keras", "tensorflow"),
        "tensorflow",
        full=True,
    ),
    "docs/keras.md": Page("", ("keras", "tensorflow", "jax"), full=True),
    "docs/pytorch.md": Page(
        LOADER
        + "x = torch.zeros(2, 3, 64, 64)\n"
        + _state_dict("densenet161.pth").replace("'densenet121'", "'densenet161'"),
        ("torch", "lightning"),
        full=True,
    ),
    "docs/recipe.md": Page(),
    "docs/spec.md": Page(),
    "docs/speed.md": Page(
        "densespec.save(densespec.build('densenet121', backend='numpy'), 'net.safetensors')",
        ("torch", "keras", "jax"),
        full=True,
    ),
    "docs/training.md": Page(
        "_train = densespec.train\n"
        "densespec.train = lambda *args, **kw: _train(*args, **kw, epochs=1)\n",
        ("sklearn", "torch", "keras", "tensorflow"),
        full=True,
    ),
    "docs/coming-from/torchvision.md": Page(
        _state_dict("photos.pth", "classes=10"), ("torch",), full_size=True, full=True
    ),
    "docs/coming-from/timm.md": Page(
        _state_dict("rgb.pth"),
        ("torch", "safetensors", "huggingface_hub"),
        full_size=True,
        full=True,
    ),
    "docs/coming-from/keras-applications.md": Page(
        _converted(
            "applications.weights.h5",
            f"densespec.get('densenet121').replace(classes=10, {KERAS})",
            ", to_layout='keras-applications'",
        ),
        ("tensorflow", "keras", "h5py", "safetensors"),
        full_size=True,
        full=True,
    ),
    "docs/coming-from/keras-hub.md": Page(
        _converted(
            "hub.weights.h5",
            f"densespec.get('densenet121').replace(padding='same', {KERAS})",
            ", to_layout='keras-hub'",
        ),
        ("tensorflow", "keras", "h5py", "safetensors"),
        full=True,
    ),
    "docs/coming-from/monai.md": Page(
        _converted(
            "ct.pth",
            "densespec.get('densenet121').replace(spatial_dims=3, in_channels=1, classes=2)",
            ", to_layout='monai'",
        ),
        ("torch", "safetensors"),
        full_size=True,
        full=True,
    ),
    "docs/coming-from/flax.md": Page(
        _converted("net.msgpack", "densespec.DenseNetSpec(blocks=(2, 2), growth_rate=4, classes=5)")
        + "from flax import serialization\n"
        "variables = serialization.msgpack_restore(open('net.msgpack', 'rb').read())\n",
        ("flax", "msgpack", "safetensors"),
    ),
    "docs/coming-from/keras-2.md": Page(
        "import numpy as np\n"
        "images, labels = np.zeros((8, 16, 16, 3), 'float32'), np.zeros(8, 'int64')\n"
        + _converted("old.h5", SMALL, ", to_layout='densespec-keras'"),
        ("tensorflow", "keras", "h5py", "safetensors"),
        "tensorflow",
        full=True,
    ),
    "docs/coming-from/lightning-1.md": Page(
        LOADER
        + _state_dict("old.ckpt")
        + "_state = {f'model.{key}': value for key, value in _model.state_dict().items()}\n"
        "torch.save({'state_dict': _state}, 'old.ckpt')\n",
        ("torch", "lightning", "safetensors"),
        full=True,
    ),
}
"""The pages whose code runs."""

ELSEWHERE = {
    "README.md": "trained weights, by tests/pretrained/test_page.py, and long training",
    "docs/backends.md": "a backend of the reader's",
    "docs/flax.md": "images, a folder and a spec of the reader's",
    "docs/mutants.md": "values that the suite has while it runs",
    "docs/pretrained.md": "trained weights, by tests/pretrained/test_page.py",
    "docs/weights.md": "the Hub, timm, transformers and torchvision's downloads",
    **{
        page: "the notebook that it is made of, by `nox -s notebooks`"
        for page in TEXTS
        if page.startswith("docs/tutorials/")
    },
}
"""The pages whose code does not run here, and what it needs."""

_BLOCK = re.compile(
    r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?\n(?P<code>.*?)^```$", re.M | re.S
)


def _blocks(page: str, language: str) -> list[tuple[str, str]]:
    found = _BLOCK.finditer(TEXTS[page])
    return [(one["title"] or "", one["code"]) for one in found if one["language"] == language]


OTHERS = {
    "torchvision": "torchvision",
    "timm": "timm",
    "keras.applications": "keras",
    "keras-hub": "keras_hub",
    "MONAI": "monai",
    "Flax": "flax",
}
"""The packages that code of others needs, by its title."""


def _code(page: str) -> str:
    """The code of a page that can run here: densespec's, and that of others who are installed."""
    here = {"", "densespec", *(title for title, name in OTHERS.items() if is_installed(name))}
    return "\n".join(code for title, code in _blocks(page, "python") if title in here)


def test_every_page_with_code_is_known() -> None:
    assert {page for page in TEXTS if _code(page)} == {*PAGES, *ELSEWHERE}


def test_every_block_names_its_language() -> None:
    known = {"python", "console", "toml", "json", "text", "pycon", "py", ""}  # py: a sketch
    assert {one["language"] for text in TEXTS.values() for one in _BLOCK.finditer(text)} <= known


@pytest.mark.parametrize(
    "page", [pytest.param(n, marks=[pytest.mark.full] if p.full else []) for n, p in PAGES.items()]
)
def test_code_runs(page: str, tmp_path: Path) -> None:
    missing = [package for package in PAGES[page].needs if not is_installed(package)]
    if missing:
        pytest.skip(f"needs {', '.join(missing)}")
    code = _code(page)
    named = [engine for engine in ENGINES if f'backend="{engine}"' in code]
    engines = [PAGES[page].engine] if PAGES[page].engine else named or [""]
    left_out = [_left_out(page, code, engine, tmp_path) for engine in engines]
    assert not set.intersection(*left_out), "no engine runs these statements"


def _left_out(page: str, code: str, engine: str, folder: Path) -> set[int]:
    """Run a page on an engine; give the numbers of the statements that need another."""
    file = folder / "code.json"
    about = PAGES[page]
    record = {
        "before": about.before,
        "code": code,
        "engine": engine,
        "full_size": about.full_size,
    }
    file.write_text(json.dumps(record), encoding="utf-8")
    place = folder / (engine or "none")
    place.mkdir()
    ran = subprocess.run(
        [sys.executable, str(RUNNER), str(file)],
        cwd=place,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    return set(json.loads(ran.stdout.strip().splitlines()[-1]))


def _commands() -> Iterator[tuple[str, str]]:
    for page in TEXTS:
        for _, text in _blocks(page, "console"):
            for line in text.replace("\\\n", " ").splitlines():
                found = re.match(r"(?:\$ )?(densespec .*)", line)
                if found:
                    yield page, found[1]


class _MissingFile(Exception):
    """A file that a command names is not there."""


def _parsed(command: click.Command, name: str, words: list[str], group: click.Context) -> None:
    try:
        command.make_context(name, words, parent=group)
    except click.BadParameter as error:
        raise (_MissingFile if "does not exist" in error.message else AssertionError) from error


@pytest.mark.parametrize(("page", "line"), [*_commands()])
def test_commands_are_commands(page: str, line: str) -> None:
    """Their names, options and numbers of arguments are right; files need not be there."""
    words = shlex.split(re.split(r" [|>] ", line)[0], comments=True)[1:]
    words = [word for word in words if word != "..."]
    group = click.Context(main, info_name="densespec")
    name = words[0]
    if name.startswith("-") or name == "conformance":  # which has pytest's options
        return
    command = main.get_command(group, name)
    assert command is not None, f"{page}: no command {name}"
    with contextlib.suppress(_MissingFile):
        _parsed(command, name, words[1:], group)
