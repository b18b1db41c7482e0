"""Describes one published file of weights as a row of the registry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from densespec.errors import DensespecError, WeightsError, shown
from densespec.network.catalogue import get
from densespec.network.spec import DenseNetSpec
from densespec.pretrained.accompaniment import SIGMOID, SOFTMAX
from densespec.pretrained.checksums import PublishedDigest
from densespec.pretrained.labels import label_set
from densespec.pretrained.preprocessing import Preprocessing

HUB = "https://huggingface.co"

HUB_PREFIXES = ("", "hf_hub:", "hf-hub:")
"""Programs write the id of a Hub repository with these prefixes."""


@dataclass(frozen=True, kw_only=True)
class PretrainedWeights:
    """Describes one published file of trained weights.

    Attributes:
        publisher: The publisher, such as ``torchvision``.
        key: The publisher's name for it.
        spec: The network that it is for, as its publisher computes it.
        data: The data that it was trained on.
        layout: The layout that names its arrays.
        licence: Its licence, or its publisher's.
        address: Where it can be fetched; None for a file on the Hub.
        repository: The id of its repository on the Hugging Face Hub.
        revision: The commit of that repository; None for the newest.
        file: The name of the file.
        archive: ``"zip"`` if the address is that of an archive with the file in it.
        digest: The digest of the file; None if nobody publishes one.
        megabytes: Its published size in megabytes.
        errors: The published errors in percent, ``top1`` and ``top5``.
        classifier: Whether it has a classifier.
        preprocessing: What its images need; None if its publisher does not say so.
        labels: The names of its classes; None if its publisher does not list them.
        activation: The function that turns its logits into probabilities, ``"softmax"`` or
            ``"sigmoid"``.
        tags: Short names that mean it if its network is given too, such as ``imagenet``.
        elsewhere: The folders in which other programs keep it.
        sources: The source of each of these facts, by its name.
    """

    publisher: str
    key: str
    spec: DenseNetSpec
    data: str
    layout: str
    licence: str
    file: str
    address: str | None = None
    repository: str | None = None
    revision: str | None = None
    archive: str | None = None
    digest: PublishedDigest | None = None
    megabytes: float | None = None
    errors: Mapping[str, float] = field(default_factory=dict)
    classifier: bool = True
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = field(default=None, repr=False)
    activation: str = SOFTMAX
    tags: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    sources: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if (self.address is None) == (self.repository is None):
            raise WeightsError("it has an address or a repository, one of the two")
        if self.activation not in (SOFTMAX, SIGMOID):
            raise WeightsError(
                f"activation = {shown(self.activation)}, but should be {SOFTMAX} or {SIGMOID}"
            )
        if self.archive not in (None, "zip"):
            raise WeightsError(f"archive = {shown(self.archive)}, but should be zip")
        if self.labels is not None and len(self.labels) != self.spec.classes:
            raise WeightsError(f"{len(self.labels)} labels, but {self.spec.classes} classes")

    @property
    def name(self) -> str:
        """Return its one exact name, such as ``torchvision:DenseNet121_Weights.IMAGENET1K_V1``."""
        return f"{self.publisher}:{self.key}"

    @property
    def names(self) -> tuple[str, ...]:
        """List every name that means this file alone."""
        ids = [f"{prefix}{self.repository}" for prefix in HUB_PREFIXES] if self.repository else []
        return (self.name, self.key, *ids)

    @property
    def source(self) -> str:
        """Return the address of the file."""
        if self.repository is None:
            return str(self.address)
        return f"{HUB}/{self.repository}/resolve/{self.revision or 'main'}/{self.file}"

    @classmethod
    def from_table(
        cls, publisher: str, key: str, table: Mapping[str, Any], sources: Mapping[str, str]
    ) -> PretrainedWeights:
        """Make one of the table of a registry file.

        Raises:
            WeightsError: A field is missing, unknown or not what it should be.
        """
        fields = dict(table)
        address = fields.get("address")
        if isinstance(address, str):
            fields.setdefault("file", _file_of(address, fields.get("archive")))
        unknown = fields.keys() - {field.name for field in dataclasses.fields(cls)}
        missing = {"spec", "data", "layout", "licence", "file"} - fields.keys()
        if unknown or missing:
            raise WeightsError(_misfit(unknown, missing))
        for name, read in _READERS.items():
            if name in fields:
                fields[name] = _read(name, read, fields[name])
        return cls(publisher=publisher, key=key, sources=sources, **fields)


def _file_of(address: str, archive: str | None) -> str:
    name = address.rpartition("/")[2]
    return name.removesuffix(f".{archive}") if archive else name


def _misfit(unknown: set[str], missing: set[str]) -> str:
    texts = [f"unknown {', '.join(sorted(unknown))}"] if unknown else []
    texts += [f"without {', '.join(sorted(missing))}"] if missing else []
    return "; ".join(texts)


def _spec(record: Mapping[str, Any]) -> DenseNetSpec:
    fields = dict(record)
    variant = fields.pop("variant", None)
    return get(variant).replace(**fields) if variant else DenseNetSpec.from_dict(fields)


def _labels(record: str | list[str]) -> tuple[str, ...]:
    return label_set(record).names if isinstance(record, str) else tuple(map(str, record))


_READERS: Mapping[str, Any] = {
    "spec": _spec,
    "digest": PublishedDigest.parse,
    "preprocessing": Preprocessing.from_dict,
    "labels": _labels,
    "tags": tuple,
    "elsewhere": tuple,
}
"""These functions turn a value of a file into the value of a field."""


def _read(name: str, read: Any, value: Any) -> Any:
    try:
        return read(value)
    except (DensespecError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(f"{name}: {error}") from error
