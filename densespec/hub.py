"""Networks in folders as the Hugging Face Hub keeps them, here or there.

A folder has ``model.safetensors`` (a canonical checkpoint), ``config.json`` (the spec, and what
images need before the network) and ``README.md`` (a model card). Folders and files of others are
read too: timm's, and any weight file that densespec reads. Reading one executes nothing.

Local folders need nothing installed; ids of the Hub need ``densespec[hub]``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from densespec.atomic import atomic_path
from densespec.backends import REFERENCE, split_mode
from densespec.building import build, origin_of, read_weights
from densespec.errors import DensespecError, UnknownName, WeightsError, WeightsWarning, shown
from densespec.installed import require
from densespec.network.arrays import Arrays
from densespec.network.differences import nearest_variant
from densespec.network.files import spec_from_json, to_json
from densespec.network.graph import Graph
from densespec.network.spec import DenseNetSpec
from densespec.texts import JsonError, parsed_json, read_text
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.containers import SUFFIXES, is_folder_of_weights
from densespec.weights.given import warn_of
from densespec.weights.opening import open_weights
from densespec.weights.reading import ReadingOptions, takes_reading_options
from densespec.weights.stated.timm import states_network, timm_network
from densespec.weights.timm_folder import CONFIG, WEIGHTS, write_timm_folder

CARD = "README.md"

FolderFormat = Literal["densespec", "timm"]
"""Whose folder it is: densespec's own, or timm's."""

PREFERRED = (WEIGHTS, "model.weights.h5", "pytorch_model.bin")
"""Weight files that are taken where a folder has several."""

PREPROCESSING = "preprocessing"
"""Key of it in ``config.json``, and in the metadata of the weight file."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What images need before a network.

    They are resized to ``size / crop``, cropped to ``size`` at the centre, scaled to [0, 1], and
    normalised: ``(x - mean) / std``, by channel.

    Raises:
        WeightsError: A value is out of place; says which and what it should be.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: tuple[int, ...]
    interpolation: str = "bilinear"
    crop: float = 1.0

    def __post_init__(self) -> None:
        for name in ("mean", "std", "size"):
            value = getattr(self, name)
            if not isinstance(value, list | tuple) or not value:
                raise _misplaced(name, value, "a list of numbers")
            object.__setattr__(self, name, tuple(value))
        if not all(map(_is_number, self.mean)):
            raise _misplaced("mean", self.mean, "numbers")
        if not all(_is_number(s) and s > 0 for s in self.std) or len(self.std) != len(self.mean):
            raise _misplaced("std", self.std, "as many numbers above 0 as mean has")
        if not all(type(side) is int and side > 0 for side in self.size):
            raise _misplaced("size", self.size, "whole numbers above 0")
        if self.interpolation not in INTERPOLATIONS:
            raise _misplaced("interpolation", self.interpolation, " or ".join(INTERPOLATIONS))
        if not _is_number(self.crop) or not 0 < self.crop <= 1:
            raise _misplaced("crop", self.crop, "a number in (0, 1]")

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Preprocessing:
        """Make one of what :func:`dataclasses.asdict` gave."""
        try:
            return cls(**record)
        except TypeError as error:
            raise WeightsError(f"preprocessing: {shown(record)} {error}") from error


def _is_number(value: object) -> bool:
    try:
        return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]
    except OverflowError:  # an integer that no float holds
        return False


def _misplaced(name: str, value: object, expected: str) -> WeightsError:
    return WeightsError(f"preprocessing: {name} = {shown(value)}, but should be {expected}")


IMAGENET = Preprocessing(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), size=(224, 224))
"""What torchvision's networks, and most that started from them, were trained with."""


# Reading


@takes_reading_options
def from_pretrained(
    path_or_hub_id: str | os.PathLike[str],
    *,
    backend: str,
    revision: str | None = None,
    token: str | None = None,
    **build_options: Any,
) -> Any:
    """Build a network with the weights of a folder, a file, or a repository of the Hub.

    Args:
        path_or_hub_id: A folder, a weight file of any layout, or an id such as ``user/network``;
            a path that exists is never looked up on the Hub.
        backend: A backend's name, as :func:`densespec.build` takes it.
        revision: A branch, tag or commit on the Hub.
        token: The user's token for the Hub, if it needs one.
        build_options: Further arguments of :func:`densespec.build`; ``include_top=False`` leaves
            the file's classifier out.
        {reading}

    Raises:
        WeightsError: There is no such path or repository, no weight file in it, or it does not fit.
        PackageMissing: The backend's framework, or for the Hub huggingface_hub, is missing.

    Warns:
        WeightsWarning: Something is taken for granted of the weights, which they do not tell.
    """
    reading, build_options = ReadingOptions.taken(build_options)
    file, config = _locate(path_or_hub_id, revision, token)
    with open_weights(file, **_stated_in(config) | reading.said()) as found:
        warn_of(found, with_head="include_top" not in build_options)
        if "include_top" not in build_options and not found.has_classifier:
            build_options.setdefault("pooling", found.graph.pooling)
        if build_options.setdefault("include_top", found.has_classifier):
            activation = found.graph.classifier_activation
            build_options.setdefault("classifier_activation", activation)
        build_options.setdefault("name", found.variant)
        build_options.setdefault("outputs", found.graph.outputs)
        return build(found.spec, backend=backend, weights=found.arrays(), **build_options)


def preprocessing_of(
    path_or_hub_id: str | os.PathLike[str],
    *,
    revision: str | None = None,
    token: str | None = None,
) -> Preprocessing | None:
    """Say what images need before a network of :func:`from_pretrained`; None if nothing says it."""
    file, config = _locate(path_or_hub_id, revision, token)
    if config is not None and (stated := _stated_preprocessing(config)):
        return stated
    with open_weights(file, **_stated_in(config)) as found:
        text = found.metadata.get(PREPROCESSING)
    return Preprocessing.from_dict(_json(text, file)) if text else None


@dataclass(frozen=True)
class _Config:
    path: Path
    entries: Mapping[str, Any]


def _locate(
    path_or_hub_id: str | os.PathLike[str], revision: str | None, token: str | None
) -> tuple[Path, _Config | None]:
    """The weight file, and the config beside it."""
    path = Path(path_or_hub_id)
    with _named(path, "can't be read"):
        if path.is_file() or is_folder_of_weights(path):
            return path, None
        folder = path if path.is_dir() else _downloaded(str(path_or_hub_id), revision, token)
        files = _weight_files(folder)
    if not files:
        raise WeightsError(f"{folder}: no weight file in it ({', '.join(SUFFIXES)})")
    chosen = next((folder / name for name in PREFERRED if folder / name in files), files[0])
    if chosen.name not in PREFERRED and len(files) > 1:
        names = ", ".join(file.name for file in files[:5])
        raise WeightsError(f"{folder}: {len(files)} weight files in it, such as {names}: give one")
    config = folder / CONFIG
    if not config.is_file():
        return chosen, None
    with _named(config, "can't be read"):
        text = read_text(config)
    return chosen, _Config(config, _json(text, config))


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Say of which path the system or the text is that does not do."""
    try:
        yield
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{shown(str(path))[1:-1]}: {what}: {reason}") from error


def _weight_files(folder: Path) -> list[Path]:
    suffixes = tuple(SUFFIXES)
    return sorted(path for path in folder.iterdir() if path.name.lower().endswith(suffixes))


def _downloaded(repo_id: str, revision: str | None, token: str | None) -> Path:
    if not HUB_ID.fullmatch(repo_id):
        raise WeightsError(
            f"{shown(repo_id)}: no such file or folder, and no id of the Hub (user/name)"
        )
    hub = _huggingface_hub(f"{repo_id} is no path here, so it is looked up on the Hub")
    folder = Path()
    others = [f"*{suffix}" for suffix in SUFFIXES]
    for patterns in (["*.safetensors"], others):
        try:
            folder = Path(
                hub.snapshot_download(
                    repo_id, revision=revision, token=token, allow_patterns=[CONFIG, *patterns]
                )
            )
        except Exception as error:  # of many types: no repository, no access, no network
            raise WeightsError(
                f"{repo_id}: no such file or folder, and from the Hub: {_reason(error)}"
            ) from error
        if _weight_files(folder):
            break
    return folder


def _reason(error: Exception) -> str:
    """The first line of what went wrong."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _huggingface_hub(why: str) -> ModuleType:
    require(f"{why}, which", "huggingface_hub", extra="hub")
    return importlib.import_module("huggingface_hub")


def _json(text: str, path: Path) -> dict[str, Any]:
    try:
        entries = parsed_json(text, "its text")
    except JsonError as error:
        raise WeightsError(f"{path}: {error}") from error
    if not isinstance(entries, dict):
        raise WeightsError(f"{path}: should be a JSON object, but is {shown(entries)}")
    return entries


def _stated_in(config: _Config | None) -> dict[str, Any]:
    """What a config states, ours or timm's, as options of :func:`open_weights`.

    Our weight files state their spec themselves, and may know better than the config.
    """
    if config is None:
        return {}
    try:
        if "spec" in config.entries:
            return {"otherwise": spec_from_json(json.dumps(config.entries["spec"]))}
        if states_network(config.entries):
            return {"stated": timm_network(config.entries)}
    except WeightsError as error:
        raise type(error)(f"{config.path}: {error}") from error
    except DensespecError as error:
        raise WeightsError(f"{config.path}: spec: {error}") from error
    return {}


def _but_first(value: object) -> object:
    """A list without its first item; anything else as it is, to be refused by name."""
    return value[1:] if isinstance(value, list) else value


def _stated_preprocessing(config: _Config) -> Preprocessing | None:
    """Ours, or what timm calls ``pretrained_cfg``."""
    ours, timms = (config.entries.get(key) for key in (PREPROCESSING, "pretrained_cfg"))
    if isinstance(ours, dict):
        record = ours
    elif isinstance(timms, dict) and {"mean", "std", "input_size"} <= timms.keys():
        record = {
            "mean": timms["mean"],
            "std": timms["std"],
            "size": _but_first(timms["input_size"]),
            "interpolation": timms.get("interpolation", "bilinear"),
            "crop": timms.get("crop_pct", 1.0),
        }
    else:
        return None
    try:
        return Preprocessing.from_dict(record)
    except WeightsError as error:
        raise WeightsError(f"{config.path}: {error}") from error


# Writing


def save_pretrained(
    model: Any,
    folder: str | os.PathLike[str],
    *,
    preprocessing: Preprocessing | None = None,
    format: FolderFormat = "densespec",  # noqa: A002
    labels: Sequence[str] | None = None,
) -> None:
    """Write a built model into a folder as the Hub keeps it.

    A model card that is there already stays as it is.

    Args:
        format: Whose folder it is to be. Timm's holds torchvision's names, and what timm's
            architecture can't be is refused; it loads in timm and in transformers, and densespec
            reads it too.
        labels: The names of the classes, which timm's format keeps.

    Raises:
        WeightsError: The preprocessing has other channels or dimensions than the network's input,
            the labels are not as many as the classes, the format can't say the network, which
            names the fields, or the folder can't be written.
        DensespecError: densespec did not build the model.

    Warns:
        WeightsWarning: Timm's network trains otherwise, or differs by less than float32 rounds.
    """
    _save(_Network.of(model), Path(folder), preprocessing, "USER/NAME", format, labels)


@takes_reading_options
def folder_of_file(
    source: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    format: FolderFormat = "densespec",  # noqa: A002
    labels: Sequence[str] | None = None,
    **reading: Any,
) -> None:
    """Write the network of a weight file, or of a folder, into a folder as the Hub keeps it.

    What the source states of images is kept; see :func:`save_pretrained`.

    Args:
        {reading}

    Raises:
        WeightsError: The source can't be read; or as for :func:`save_pretrained`.
    """
    file, config = _locate(source, None, None)
    said = ReadingOptions(**reading).said()
    with open_weights(file, **_stated_in(config) | said) as found:
        warn_of(found, with_head=True)
        text = found.metadata.get(PREPROCESSING)
        stated = _stated_preprocessing(config) if config else None
        preprocessing = stated or (Preprocessing.from_dict(_json(text, file)) if text else None)
        network = _Network(found.graph, found.arrays(), REFERENCE)
    _save(network, Path(folder), preprocessing, "USER/NAME", format, labels)


@dataclass(frozen=True)
class _Network:
    """What is written into a folder, and the backend that its card builds it on."""

    graph: Graph
    arrays: Arrays
    backend: str

    @classmethod
    def of(cls, model: Any) -> _Network:
        origin = origin_of(model)
        return cls(origin.graph, read_weights(model), split_mode(origin.backend)[0])


def _save(
    network: _Network,
    folder: Path,
    preprocessing: Preprocessing | None,
    address: str,
    format: FolderFormat = "densespec",  # noqa: A002
    labels: Sequence[str] | None = None,
) -> None:
    """``address`` is where the model card says to load the network from."""
    graph = network.graph
    if preprocessing is not None:
        _check_fits(preprocessing, graph.spec)
    _check_labels(labels, graph, format)
    with _named(folder, "can't be made a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    if format == "timm":
        _write_timms(network, folder, preprocessing, labels)
    else:
        texts = {PREPROCESSING: json.dumps(asdict(preprocessing))} if preprocessing else {}
        write_checkpoint(folder / WEIGHTS, graph, network.arrays, metadata=texts)
        _write(folder / CONFIG, json.dumps(_config(graph, preprocessing), indent=2) + "\n")
    if not (folder / CARD).exists():
        _write(folder / CARD, _card(network, preprocessing, address, format))


def _write_timms(
    network: _Network,
    folder: Path,
    preprocessing: Preprocessing | None,
    labels: Sequence[str] | None,
) -> None:
    pretrained = _pretrained_cfg(network.graph.spec, preprocessing)
    with _named(folder, "can't be written"):
        notes = write_timm_folder(folder, network.graph, network.arrays, pretrained, labels)
    for note in notes:
        warnings.warn(f"{folder}: {note}", WeightsWarning, stacklevel=4)


def _check_labels(labels: Sequence[str] | None, graph: Graph, format: FolderFormat) -> None:  # noqa: A002
    if format not in get_args(FolderFormat):
        raise WeightsError(str(UnknownName("format", format, get_args(FolderFormat))))
    if labels is None:
        return
    if format != "timm":
        raise WeightsError("labels: only timm's format keeps them (format='timm')")
    if not graph.has_classifier or len(labels) != graph.spec.classes:
        classes = graph.spec.classes if graph.has_classifier else "no"
        raise WeightsError(f"{len(labels)} labels, but the network has {classes} classes")


def _pretrained_cfg(spec: DenseNetSpec, preprocessing: Preprocessing | None) -> dict[str, Any]:
    """What timm calls ``pretrained_cfg``; timm has defaults of its own for what is not said."""
    if preprocessing is None:
        return {}
    return {
        "input_size": [spec.in_channels, *preprocessing.size],
        "fixed_input_size": False,
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop,
        "crop_mode": "center",
        "mean": list(preprocessing.mean),
        "std": list(preprocessing.std),
    }


def push_to_hub(
    model: Any,
    repo_id: str,
    *,
    preprocessing: Preprocessing | None = None,
    format: FolderFormat = "densespec",  # noqa: A002
    labels: Sequence[str] | None = None,
    token: str | None = None,
    private: bool = False,
) -> str:
    """Upload a built model to the Hub, whose repository is made if there is none. Gives its URL.

    Raises:
        PackageMissing: huggingface_hub is not installed.
        WeightsError: The Hub can't be reached, or refuses.
        WeightsError, DensespecError: as for :func:`save_pretrained`.
    """
    hub = _huggingface_hub("the model is to be uploaded to the Hub")
    network = _Network.of(model)
    with tempfile.TemporaryDirectory() as folder:
        _save(network, Path(folder), preprocessing, repo_id, format, labels)
        try:
            url = str(hub.create_repo(repo_id, token=token, private=private, exist_ok=True))
            hub.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                token=token,
                commit_message="A DenseNet of densespec",
            )
        except Exception as error:  # of many types: no access, no network, no such name
            raise WeightsError(
                f"{shown(repo_id)}: can't be uploaded to the Hub: {_reason(error)}"
            ) from error
    return url


def _check_fits(preprocessing: Preprocessing, spec: DenseNetSpec) -> None:
    if len(preprocessing.mean) != spec.in_channels or len(preprocessing.size) != spec.spatial_dims:
        raise WeightsError(
            f"preprocessing of {len(preprocessing.mean)} channels and "
            f"{len(preprocessing.size)} sizes, but the network takes {spec.in_channels} channels "
            f"and {spec.spatial_dims} sizes"
        )


def _config(graph: Graph, preprocessing: Preprocessing | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "library_name": "densespec",
        "spec": json.loads(to_json(graph.spec)),
        "classifier": graph.has_classifier,
    }
    if preprocessing is not None:
        config[PREPROCESSING] = asdict(preprocessing)
    return config


def _write(path: Path, text: str) -> None:
    with _named(path, "can't be written"), atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _card(
    network: _Network,
    preprocessing: Preprocessing | None,
    address: str,
    format: FolderFormat,  # noqa: A002
) -> str:
    graph, spec = network.graph, network.graph.spec
    name, differences = nearest_variant(spec)
    title = name or f"DenseNet-{spec.depth}"
    head = f"{spec.classes} classes" if graph.has_classifier else "without a classifier"
    lines = [
        "---",
        f"library_name: {format}",
        "tags:",
        "- densenet",
        *(["- image-classification"] if spec.spatial_dims == 2 else []),
        "---",
        "",
        f"# {title}",
        "",
        f"A DenseNet of blocks {', '.join(map(str, spec.blocks))} and growth rate "
        f"{spec.growth_rate}, {head}.",
    ]
    if differences:
        own = ", ".join(f"`{field} = {ours!r}`" for field, (ours, _) in differences.items())
        lines.append(f"It differs from densespec's {name} in {own}.")
    lines += [
        "",
        "```python",
        "import densespec",
        "",
        "# or on another backend of densespec.backends():",
        f'model = densespec.from_pretrained("{address}", backend="{network.backend}")',
        "```",
    ]
    if format == "timm":
        lines += [
            "",
            "```python",
            "import timm",
            "",
            f'model = timm.create_model("hf-hub:{address}", pretrained=True)',
            "```",
        ]
    if preprocessing is not None:
        size = "x".join(map(str, preprocessing.size))
        lines += [
            "",
            f"Images are resized ({preprocessing.interpolation}) so that a centre crop of {size} "
            f"keeps {preprocessing.crop:g} of each side, scaled to [0, 1], and normalised by mean "
            f"{preprocessing.mean} and standard deviation {preprocessing.std}.",
        ]
    return "\n".join(lines) + "\n"
