"""Reads what a ``config.json`` beside a weight file states of its network, as on the Hub."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from densespec.errors import WeightsError, shown
from densespec.texts import JsonError, parsed_json, read_text
from densespec.weights.stated.network import StatedNetwork
from densespec.weights.stated.timm import states_network, timm_network

WEIGHTS, TORCH_WEIGHTS, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"

BESIDE_CONFIGS = (WEIGHTS, TORCH_WEIGHTS)
"""The names that weight files have whose network a config beside them states."""


@dataclass(frozen=True)
class Config:
    """Holds the entries of a config, and its path."""

    path: Path
    entries: Mapping[str, Any]


def config_in(folder: Path) -> Config | None:
    """Read the config in a folder; None where there is none.

    Raises:
        WeightsError: It is no JSON object, or can't be read.
    """
    path = folder / CONFIG
    if not path.is_file():
        return None
    try:
        entries = parsed_json(read_text(path), "its text")
    except JsonError as error:
        raise WeightsError(f"{path}: {error}") from error
    except (OSError, ValueError) as error:  # no UTF-8
        reason = getattr(error, "strerror", None) or error
        raise WeightsError(f"{path}: can't be read: {reason}") from error
    if not isinstance(entries, dict):
        raise WeightsError(f"{path}: should be a JSON object, but is {shown(entries)}")
    return Config(path, entries)


def timm_network_in(config: Config | None) -> StatedNetwork | None:
    """Return the network that a config states as timm does; None where it states none so.

    Raises:
        WeightsError: It is no DenseNet, or none that a spec says; names the config.
    """
    if config is None or not states_network(config.entries):
        return None
    try:
        return timm_network(config.entries)
    except WeightsError as error:
        raise type(error)(f"{config.path}: {error}") from error


def stated_beside(path: Path) -> StatedNetwork | None:
    """Return the network that timm's config beside a weight file states; None where none does.

    Raises:
        WeightsError: The config can't be read, or states what no spec says.
    """
    return timm_network_in(config_in(path.parent)) if path.name in BESIDE_CONFIGS else None
