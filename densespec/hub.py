"""Reads and writes networks in folders as the Hugging Face Hub keeps them, locally or on the Hub.

A folder has ``model.safetensors`` (a canonical checkpoint), ``config.json`` (the spec, and what
images need before the network) and ``README.md`` (a model card). Folders and files of others are
read too: timm's, and any weight file that densespec reads. Reading one executes nothing.

Local folders need nothing installed; ids of the Hub need ``densespec[hub]``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

from densespec.atomic import atomic_path
from densespec.backends import REFERENCE, split_mode
from densespec.building import accompanied, build, origin_of, read_weights
from densespec.errors import DensespecError, UnknownName, WeightsError, WeightsWarning, shown
from densespec.installed import imported
from densespec.network.arrays import Arrays
from densespec.network.differences import nearest_variant
from densespec.network.files import spec_from_json, to_json
from densespec.network.graph import Graph
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.accompaniment import (
    PREPROCESSING,
    PROVENANCE,
    Accompaniment,
)
from densespec.pretrained.preprocessing import IMAGENET as IMAGENET
from densespec.pretrained.preprocessing import Preprocessing as Preprocessing
from densespec.weights.beside import (
    CONFIG,
    TORCH_WEIGHTS,
    WEIGHTS,
    Config,
    config_in,
    timm_network_in,
)
from densespec.weights.checkpoint import write_checkpoint
from densespec.weights.containers import SUFFIXES, is_folder_of_weights
from densespec.weights.given import warn_of
from densespec.weights.opening import open_weights
from densespec.weights.reading import ReadingOptions, takes_reading_options
from densespec.weights.timm_folder import write_timm_folder

CARD = "README.md"

FolderFormat = Literal["densespec", "timm"]
"""The format of a folder: densespec's own, or timm's."""

PREFERRED = (WEIGHTS, "model.weights.h5", TORCH_WEIGHTS)
"""Where a folder has several weight files, the first of these is taken."""

LABELS = "id2label"
"""The key in ``config.json`` for the names of the classes, as other programs know it."""

LONGEST_REASON = 500
"""A message shows at most this many characters of the Hub's answer, which may repeat its input."""

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

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
        WeightsWarning: Something is assumed that the weights do not state.
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
        model = build(found.spec, backend=backend, weights=found.arrays(), **build_options)
        return accompanied(model, _all_stated(found.accompaniment, config))


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
        return found.accompaniment.preprocessing


def _locate(
    path_or_hub_id: str | os.PathLike[str], revision: str | None, token: str | None
) -> tuple[Path, Config | None]:
    """Find the weight file, and read the config beside it."""
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
    return chosen, config_in(folder)


@contextlib.contextmanager
def _named(path: Path, what: str) -> Iterator[None]:
    """Put the path, and what is wrong with it, before an error of the system or of a text."""
    try:
        yield
    except DensespecError:
        raise
    except (OSError, ValueError) as error:  # no UTF-8, or characters that no path has
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
    """Return the error's first line, cut short and without what a terminal should not print."""
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return repr(line)[1:-1][:LONGEST_REASON]


def _huggingface_hub(why: str) -> ModuleType:
    return imported(f"{why}, which", "huggingface_hub", extra="hub")


def _stated_in(config: Config | None) -> dict[str, Any]:
    """Read what a config states, ours or timm's, as options of :func:`open_weights`.

    Our weight files state their spec themselves, so the config's spec is not used for them.
    """
    if config is None:
        return {}
    try:
        if "spec" in config.entries:
            return {"otherwise": spec_from_json(json.dumps(config.entries["spec"]))}
    except DensespecError as error:
        raise WeightsError(f"{config.path}: spec: {error}") from error
    return {"stated": timm_network_in(config)}


def _all_stated(found: Accompaniment, config: Config | None) -> Accompaniment:
    """Join what the weight file states beside its arrays with what only the config states."""
    if config is None:
        return found
    stated = Accompaniment(
        preprocessing=_stated_preprocessing(config), labels=_stated_labels(config.entries)
    )
    return found.otherwise(stated)


def _stated_labels(entries: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Read the names of the classes as transformers or as timm writes them."""
    named, listed = entries.get(LABELS), entries.get("label_names")
    if isinstance(named, dict) and named.keys() == set(map(str, range(len(named)))):
        return tuple(str(named[str(index)]) for index in range(len(named)))
    return tuple(map(str, listed)) if isinstance(listed, list) else None


def _but_first(value: object) -> object:
    """Drop a list's first item. Anything else is returned as it is, to be refused by name."""
    return value[1:] if isinstance(value, list) else value


def _stated_preprocessing(config: Config) -> Preprocessing | None:
    """Read the preprocessing from our own entry or from timm's ``pretrained_cfg``."""
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
            "resize": "squash" if timms.get("crop_mode") == "squash" else "shorter",
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
        preprocessing: What images need; None for what the model's weights say.
        format: The format of the folder. Timm's holds torchvision's names, and what timm's
            architecture can't be is refused; it loads in timm and in transformers, and densespec
            reads it too.
        labels: The names of the classes; None for what the model's weights say.

    Raises:
        WeightsError: The preprocessing has other channels or dimensions than the network's input,
            there are not as many labels as classes, the format can't state the network (the message
            names the fields), or the folder can't be written.
        DensespecError: densespec did not build the model.

    Warns:
        WeightsWarning: Timm's network trains differently, or differs by less than float32 rounds.
    """
    network = _Network.of(model).said(preprocessing, labels)
    _save(network, Path(folder), "USER/NAME", format)


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
        goes_with = _all_stated(found.accompaniment, config).fitted_to(found.graph)
        network = _Network(found.graph, found.arrays(), REFERENCE, goes_with)
    _save(network.said(None, labels), Path(folder), "USER/NAME", format)


@dataclass(frozen=True)
class _Network:
    """Holds what is written into a folder, and the backend on which its model card builds it."""

    graph: Graph
    arrays: Arrays
    backend: str
    goes_with: Accompaniment

    @classmethod
    def of(cls, model: Any) -> _Network:
        origin = origin_of(model)
        backend, _ = split_mode(origin.backend)
        return cls(origin.graph, read_weights(model), backend, origin.accompaniment)

    def said(self, preprocessing: Preprocessing | None, labels: Sequence[str] | None) -> _Network:
        """Return the same network with the preprocessing and labels that a user states.

        Raises:
            WeightsError: They are for another network.
        """
        if preprocessing is not None:
            _check_fits(preprocessing, self.graph.spec)
        if labels is not None:
            _check_labels(labels, self.graph)
        said = Accompaniment(
            preprocessing=preprocessing, labels=None if labels is None else tuple(labels)
        )
        kept = said.otherwise(self.goes_with)
        return replace(self, goes_with=replace(kept, outputs=self.goes_with.outputs))


def _save(
    network: _Network,
    folder: Path,
    address: str,
    format: FolderFormat = "densespec",  # noqa: A002
) -> None:
    """Write the network; its model card loads it from ``address``."""
    graph, goes_with = network.graph, network.goes_with
    if format not in get_args(FolderFormat):
        raise WeightsError(str(UnknownName("format", format, get_args(FolderFormat))))
    with _named(folder, "can't be made a folder"):
        folder.mkdir(parents=True, exist_ok=True)
    if format == "timm":
        _write_timms(network, folder)
    else:
        write_checkpoint(folder / WEIGHTS, graph, network.arrays, accompaniment=goes_with)
        _write(folder / CONFIG, json.dumps(_config(graph, goes_with), indent=2) + "\n")
    if not (folder / CARD).exists():
        _write(folder / CARD, _card(network, address, format))


def _write_timms(network: _Network, folder: Path) -> None:
    goes_with = network.goes_with
    pretrained = _pretrained_cfg(network.graph.spec, goes_with.preprocessing)
    with _named(folder, "can't be written"):
        notes = write_timm_folder(
            folder, network.graph, network.arrays, pretrained, goes_with.labels
        )
    for note in notes:
        warnings.warn(f"{folder}: {note}", WeightsWarning, stacklevel=4)


def _check_labels(labels: Sequence[str], graph: Graph) -> None:
    if not graph.has_classifier or len(labels) != graph.spec.classes:
        classes = graph.spec.classes if graph.has_classifier else "no"
        raise WeightsError(f"{len(labels)} labels, but the network has {classes} classes")


def _pretrained_cfg(spec: DenseNetSpec, preprocessing: Preprocessing | None) -> dict[str, Any]:
    """Make timm's ``pretrained_cfg``. Timm has its own defaults for what is left out."""
    if preprocessing is None:
        return {}
    return {
        "input_size": [spec.in_channels, *preprocessing.size],
        "fixed_input_size": False,
        "interpolation": preprocessing.interpolation,
        "crop_pct": preprocessing.crop,
        "crop_mode": "squash" if preprocessing.resize == "squash" else "center",
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
    """Upload a built model to the Hub, and return the URL of its repository.

    The repository is made if there is none.

    Raises:
        PackageMissing: huggingface_hub is not installed.
        WeightsError: The Hub can't be reached, or refuses.
        WeightsError, DensespecError: as for :func:`save_pretrained`.
    """
    hub = _huggingface_hub("the model is to be uploaded to the Hub")
    network = _Network.of(model).said(preprocessing, labels)
    with tempfile.TemporaryDirectory() as folder:
        _save(network, Path(folder), repo_id, format)
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


def _config(graph: Graph, goes_with: Accompaniment) -> dict[str, Any]:
    config: dict[str, Any] = {
        "library_name": "densespec",
        "spec": json.loads(to_json(graph.spec)),
        "classifier": graph.has_classifier,
    }
    if goes_with.preprocessing is not None:
        config[PREPROCESSING] = goes_with.preprocessing.to_dict()
    if goes_with.labels is not None:
        config[LABELS] = {str(index): name for index, name in enumerate(goes_with.labels)}
    if goes_with.provenance is not None:
        config[PROVENANCE] = asdict(goes_with.provenance)
    return config


def _write(path: Path, text: str) -> None:
    with _named(path, "can't be written"), atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _card(
    network: _Network,
    address: str,
    format: FolderFormat,  # noqa: A002
) -> str:
    preprocessing, provenance = network.goes_with.preprocessing, network.goes_with.provenance
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
    if provenance is not None:
        lines.append(f"Its weights are, or started from, {provenance}.")
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
