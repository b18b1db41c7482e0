"""A publisher of weights on this machine: an HTTP server with small files in the real formats."""

from __future__ import annotations

import hashlib
import threading
import zipfile
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from densespec.network.graph import lower
from densespec.network.spec import DenseNetSpec
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.containers import open_file, write_file
from densespec.weights.convert import convert
from tests.test_convert import SPEC, random_weights

CIFAR = DenseNetSpec(blocks=(2, 2, 2), growth_rate=12, compression=0.5, stem_width="2k", classes=10)
"""A small one of the form that pytorchcv's networks for CIFAR-10 have."""

KERAS = {
    "batch_norm_epsilon": 1.001e-5,
    "batch_norm_momentum": 0.01,
    "running_variance": "biased",
    "dropout_place": "conv",
}
"""What keras.applications does otherwise than torchvision."""

COMMIT = "0123456789abcdef0123456789abcdef01234567"
"""The commit of what the Hub has."""

LABELS = ("ant", "bee", "cat", "dog", "eel")


@dataclass
class Publisher:
    """A server of files, which counts what is asked of it.

    Attributes:
        files: The content by path, such as ``"/net.pth"``.
        breaks: How many bytes of each of the next answers are sent before the connection breaks.
        ignores_ranges: Whether it always sends files whole.
        asked: The path and the range of every question.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    breaks: list[int] = field(default_factory=list)
    ignores_ranges: bool = False
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def __enter__(self) -> Publisher:
        publisher = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                publisher.answer(self)

            def do_HEAD(self) -> None:
                publisher.answer_head(self)

            def log_message(self, *args: Any) -> None:
                """Tell the terminal nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def answer_head(self, handler: BaseHTTPRequestHandler) -> None:
        """Say of a file what the Hugging Face Hub says: its commit, and its SHA-256."""
        content = self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        handler.send_response(200)
        handler.send_header("X-Repo-Commit", COMMIT)
        handler.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers.get("Range")
        self.asked.append((handler.path, wanted))
        content = self.files.get(handler.path)
        if content is None:
            handler.send_error(404)
            return
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        if self.ignores_ranges:
            start = 0
        if start >= len(content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        handler.send_header("Content-Length", str(len(content) - start))
        handler.end_headers()
        end = start + self.breaks.pop(0) if self.breaks else len(content)
        handler.wfile.write(content[start:end])


def digest(content: bytes, algorithm: str = "sha256") -> str:
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


def torchvision_file(folder: Path, spec: DenseNetSpec = SPEC) -> bytes:
    """A ``.pth`` of torchvision's layout, in the names that its published files have."""
    net, path = folder / "net.safetensors", folder / "net.pth"
    write_checkpoint(net, lower(spec), random_weights(spec))
    convert(net, folder / "new.pth", to_layout="torchvision")
    with open_file(folder / "new.pth") as file:
        old = {_with_dots(name): tensor for name, tensor in file.tensors.items()}
        write_file(path, old, {}, container="torch")
    return path.read_bytes()


def _with_dots(name: str) -> str:
    for kind in ("norm", "conv"):
        for number in "12":
            if "denselayer" in name:
                name = name.replace(f".{kind}{number}.", f".{kind}.{number}.")
    return name


def keras_file(folder: Path) -> bytes:
    """An ``.h5`` of keras.applications' layout."""
    net, path, spec = folder / "keras.safetensors", folder / "net.h5", SPEC.replace(**KERAS)
    write_checkpoint(net, lower(spec), random_weights(spec))
    convert(net, path, to_layout="keras-applications")
    return path.read_bytes()


def pytorchcv_file(folder: Path) -> bytes:
    """A ``.pth`` of pytorchcv's layout for CIFAR-10."""
    net, path = folder / "cifar.safetensors", folder / "cifar.pth"
    write_checkpoint(net, lower(CIFAR), random_weights(CIFAR))
    convert(net, path, to_layout="pytorchcv-cifar")
    return path.read_bytes()


def zipped(name: str, content: bytes) -> bytes:
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def noisy_image(seed: int = 0, shape: tuple[int, ...] = (50, 60, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
