"""Draws a contact sheet: images in rows, each with what a network says of it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from densespec.atomic import atomic_path
from densespec.installed import require_pillow
from densespec.predicting.guessing import Prediction
from densespec.pretrained.pictures import pixels_of

SIDE, GAP, LINE = 200, 16, 18
COLUMNS = 5
"""This many images stand side by side."""

SHOWN = 3
"""This many classes stand below each image."""

PAPER, INK, PALE, BAR = "#ffffff", "#1d2733", "#dfe5ec", "#2f6db3"


def write_sheet(predictions: Sequence[Prediction], path: Path) -> None:
    """Write a contact sheet as a PNG, atomically.

    Raises:
        PackageMissing: Pillow is not installed.
        ImageError: An image can't be read any more.
    """
    pillow = require_pillow("drawing a contact sheet")
    columns = min(COLUMNS, max(1, len(predictions)))
    rows = math.ceil(len(predictions) / columns)
    width, height = SIDE + GAP, SIDE + (SHOWN + 1) * LINE + GAP
    sheet = pillow.new("RGB", (columns * width + GAP, rows * height + GAP), PAPER)
    for index, prediction in enumerate(predictions):
        row, column = divmod(index, columns)
        _draw(sheet, prediction, GAP + column * width, GAP + row * height, index)
    with atomic_path(path) as temporary:
        sheet.save(temporary, format="PNG")


def _draw(sheet: Any, prediction: Prediction, left: int, top: int, index: int) -> None:
    from PIL import Image, ImageDraw, ImageFont

    picture = Image.fromarray(pixels_of(prediction.image, 3))
    picture.thumbnail((SIDE, SIDE))
    sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
    line = top + SIDE + 2
    draw.text((left, line), _fitting(draw, font, _name(prediction, index), SIDE), INK, font)
    for guess in prediction.guesses[:SHOWN]:
        line += LINE
        draw.rectangle((left, line, left + SIDE, line + LINE - 4), PALE)
        draw.rectangle((left, line, left + round(SIDE * guess.probability), line + LINE - 4), BAR)
        text = f"{guess.probability:.1%}"
        room = SIDE - draw.textlength(text, font) - 12
        label = _fitting(draw, font, guess.label, room)
        for place, words in ((left + 4, label), (left + room + 8, text)):
            draw.text((place, line), words, INK, font, stroke_width=2, stroke_fill=PAPER)


def _name(prediction: Prediction, index: int) -> str:
    image = prediction.image
    return Path(image).name if isinstance(image, str | Path) else f"image {index + 1}"


def _fitting(draw: Any, font: Any, text: str, room: float) -> str:
    """Cut a text short if it is too long for its place."""
    if draw.textlength(text, font) <= room:
        return text
    while text and draw.textlength(f"{text}...", font) > room:
        text = text[:-1]
    return f"{text}..."
