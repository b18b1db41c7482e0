"""Architecture figures: what they say, that nothing in them overlaps, and how they are written."""

from __future__ import annotations

import itertools
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

import densespec
from densespec import DenseNetSpec, Graph, lower
from densespec.network.drawing import SUFFIXES, draw

matplotlib = pytest.importorskip("matplotlib")

TIMES = "\N{MULTIPLICATION SIGN}"

IMAGENET_STEM: dict[str, Any] = {
    "stem_kind": "conv-norm-relu",
    "stem_kernel": 7,
    "stem_stride": 2,
    "stem_pool": 3,
}


def _graphs() -> dict[str, Graph]:
    one = DenseNetSpec(blocks=(1,), growth_rate=4, classes=3)
    eight = DenseNetSpec(blocks=(2, 4, 6, 8, 8, 6, 4, 2), growth_rate=12, bottleneck_width=4)
    deep = DenseNetSpec(blocks=(332, 333, 332), growth_rate=2, classes=10)
    volume = DenseNetSpec(
        blocks=(3, 5), growth_rate=8, spatial_dims=3, in_channels=1, **IMAGENET_STEM
    )
    signal = DenseNetSpec(blocks=(3, 5), growth_rate=8, spatial_dims=1, stem_stride=3)
    imagenet, cifar = densespec.get("densenet121"), densespec.get("densenet-40-12")
    return {
        "densenet121": lower(imagenet, (224, 224)),
        "densenet264": lower(densespec.get("densenet264"), (224, 224)),
        "densenet264-k48 at 2048x4096": lower(densespec.get("densenet264-k48"), (2048, 4096)),
        "densenet-40-12": lower(cifar, (32, 32)),
        "one layer": lower(one, (8, 8)),
        "eight blocks": lower(eight, (256, 256)),
        "1001 layers": lower(deep, (32, 32)),
        "volume": lower(volume, (64, 64, 64)),
        "signal": lower(signal, (4096,)),
        "any size": lower(imagenet),
        "any height": lower(imagenet, (None, 320)),
        "features": lower(imagenet, (224, 224), include_top=False),
        "pooled": lower(imagenet, (224, 224), include_top=False, pooling="max"),
        "softmax": lower(cifar, (32, 32), classifier_activation="softmax"),
    }


GRAPHS = _graphs()
EVERY_GRAPH = pytest.mark.parametrize("name", GRAPHS)


def texts(path: Path) -> list[str]:
    """The texts of an SVG file."""
    root = ElementTree.parse(path).getroot()
    return [node.text or "" for node in root.iter("{http://www.w3.org/2000/svg}text")]


def figure_of(graph: Graph, path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The figure that ``draw`` saves."""
    from matplotlib.figure import Figure

    saved = []

    def savefig(self: Figure, target: Path, **options: Any) -> None:
        saved.append(self)

    monkeypatch.setattr(Figure, "savefig", savefig)
    draw(graph, path, title="a title")
    return saved[0]


@EVERY_GRAPH
def test_each_stage_is_labelled(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]
    draw(graph, tmp_path / "net.svg", title=name)
    found = texts(tmp_path / "net.svg")
    assert found[0] == name
    for stage in graph.stages():
        assert _in_words(stage.name) in found
        assert str(stage.shape[0]) in found
        if stage.parameters.total:
            assert f"{stage.parameters.total:,}" in found
        if len(stage.shape) > 1 and None not in stage.shape:
            assert TIMES.join(map(str, stage.shape[1:])) in found


def _in_words(stage: str) -> str:
    letters = stage.rstrip("0123456789")
    return f"{letters} {stage[len(letters) :]}".replace("_", " ").strip()


def test_operations_are_named(tmp_path: Path) -> None:
    draw(GRAPHS["densenet121"], tmp_path / "net.svg")
    found = texts(tmp_path / "net.svg")
    expected = [f"7{TIMES}7 conv, /2", f"3{TIMES}3 max, /2", "6 layers, k = 32"]
    expected += [f"1{TIMES}1, 3{TIMES}3 conv", f"1{TIMES}1 conv", f"2{TIMES}2 avg, /2"]
    expected += ["norm, ReLU", "average", "linear"]
    assert set(expected) <= set(found)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"activation": "elu"}, "norm, ELU"),
        ({"activation": "prelu", "norm": "instance"}, "instance norm, PReLU"),
        ({"norm": "group", "norm_groups": 4}, "group norm, ReLU"),
        ({"norm": "none", "activation": "leaky-relu"}, "leaky ReLU"),
    ],
    ids=str,
)
def test_other_norms_and_activations_are_named(
    changes: dict[str, Any], text: str, tmp_path: Path
) -> None:
    spec = DenseNetSpec(blocks=(1, 1), growth_rate=4, stem_width=8, **changes)
    draw(lower(spec, (8, 8)), tmp_path / "net.svg")
    assert text in texts(tmp_path / "net.svg")


def test_totals_stand_under_the_title(tmp_path: Path) -> None:
    draw(GRAPHS["densenet121"], tmp_path / "net.svg")
    title, totals, *_ = texts(tmp_path / "net.svg")
    assert title == "DenseNet-121"
    for number in ("7,978,856", "83,648", "2,834,161,664", f"3{TIMES}224{TIMES}224"):
        assert number in totals


def test_without_a_size_sizes_are_fractions_and_multiply_adds_are_left_out(tmp_path: Path) -> None:
    draw(GRAPHS["any size"], tmp_path / "net.svg")
    found = texts(tmp_path / "net.svg")
    assert {"any", "1/2", "1/4", "1/8", "1/16", "1/32"} <= set(found)
    assert "multiply-adds" not in found[1]


def test_a_size_that_is_partly_known(tmp_path: Path) -> None:
    draw(GRAPHS["any height"], tmp_path / "net.svg")
    assert f"?{TIMES}10" in texts(tmp_path / "net.svg")


@EVERY_GRAPH
def test_no_texts_overlap_and_all_are_inside(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure = figure_of(GRAPHS[name], tmp_path / "net.svg", monkeypatch)
    canvas: Any = FigureCanvasAgg(figure)
    renderer = canvas.get_renderer()
    labels = [label for label in figure.axes[0].texts if label.get_text()]
    boxes = [(label.get_text(), label.get_window_extent(renderer)) for label in labels]
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        assert not a.overlaps(b), f"{one!r} overlaps {other!r}"
    for text, box in boxes:
        assert figure.bbox.containsx(box.x0), text
        assert figure.bbox.containsx(box.x1), text
        assert figure.bbox.containsy(box.y0), text
        assert figure.bbox.containsy(box.y1), text


@EVERY_GRAPH
def test_no_shapes_overlap_those_of_other_stages_or_texts(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.patches import PathPatch, Polygon, Rectangle

    graph = GRAPHS[name]
    figure = figure_of(graph, tmp_path / "net.svg", monkeypatch)
    axes = figure.axes[0]
    spans: list[tuple[float, float]] = []
    for patch in axes.patches:
        if isinstance(patch, Rectangle | Polygon):
            x0, x1 = patch.get_extents().x0, patch.get_extents().x1
            inside = spans and x1 <= spans[-1][1] + 1e-6
            if not inside:
                assert not spans or x0 > spans[-1][1]
                spans.append((x0, x1))
    assert len(spans) == 1 + len(graph.stages())
    kinds = Rectangle | Polygon | PathPatch
    extents = [patch.get_extents() for patch in axes.patches if isinstance(patch, kinds)]
    top_of_shapes = max(extent.y1 for extent in extents)
    bottom_of_shapes = min(extent.y0 for extent in extents)
    for label in axes.texts:
        y = axes.transData.transform(label.get_position())[1]
        assert label.get_text() == "" or y > top_of_shapes or y < bottom_of_shapes


def test_a_dense_block_has_a_slice_for_its_input_and_for_each_layer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.patches import Rectangle

    figure = figure_of(GRAPHS["densenet121"], tmp_path / "net.svg", monkeypatch)
    slices = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    assert len(slices) == 4 + 6 + 12 + 24 + 16


def test_height_follows_the_spatial_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from matplotlib.patches import Rectangle

    figure = figure_of(GRAPHS["densenet121"], tmp_path / "net.svg", monkeypatch)
    slices = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    heights = list(dict.fromkeys(round(patch.get_height(), 6) for patch in slices))
    assert len(heights) == 4
    assert heights == sorted(heights, reverse=True)


def test_a_thousand_layers_make_a_small_file(tmp_path: Path) -> None:
    draw(GRAPHS["1001 layers"], tmp_path / "net.svg")
    assert (tmp_path / "net.svg").stat().st_size < 500_000


def test_a_long_title_fits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw(GRAPHS["one layer"], tmp_path / "short.svg", title="a")
    draw(GRAPHS["one layer"], tmp_path / "long.svg", title="W" * 80)

    def width(name: str) -> float:
        root = ElementTree.parse(tmp_path / name).getroot()
        return float(root.attrib["width"].removesuffix("pt"))

    assert width("long.svg") > 2 * width("short.svg")


@pytest.mark.parametrize("title", ["$x$", r"$\frac{", "a < b & c", "100%", "_a^b"])
def test_a_title_is_shown_as_it_is(title: str, tmp_path: Path) -> None:
    draw(GRAPHS["one layer"], tmp_path / "net.svg", title=title)
    assert texts(tmp_path / "net.svg")[0] == title


# Files


@pytest.mark.parametrize(
    ("suffix", "start"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".pdf", b"%PDF")]
)
def test_the_suffix_decides_the_format(suffix: str, start: bytes, tmp_path: Path) -> None:
    path = tmp_path / f"net{suffix}"
    draw(GRAPHS["one layer"], path)
    assert path.read_bytes().startswith(start)
    draw(GRAPHS["one layer"], str(path))
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_network_gives_the_same_file(suffix: str, tmp_path: Path) -> None:
    one, two = tmp_path / f"one{suffix}", tmp_path / f"two{suffix}"
    for path in (one, two):
        draw(GRAPHS["densenet-40-12"], path)
    assert one.read_bytes() == two.read_bytes()


def test_pdf_embeds_its_fonts(tmp_path: Path) -> None:
    draw(GRAPHS["one layer"], tmp_path / "net.pdf")
    assert b"/FontFile2" in (tmp_path / "net.pdf").read_bytes()


@pytest.mark.parametrize("name", ["net.gif", "net", "net.svg.tmp"])
def test_another_suffix_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in \.svg, \.png or \.pdf"):
        draw(GRAPHS["one layer"], tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="gone"):
        draw(GRAPHS["one layer"], tmp_path / "gone" / "net.svg")


def test_a_failed_drawing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def fail(self: Figure, target: Path, **options: Any) -> None:
        target.write_text("half")
        raise RuntimeError("disk full")

    path = tmp_path / "net.svg"
    path.write_text("old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        draw(GRAPHS["one layer"], path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"densespec\[draw\]"):
        draw(GRAPHS["one layer"], tmp_path / "net.svg")


# Global state


def test_settings_of_matplotlib_are_left_alone(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    draw(GRAPHS["one layer"], tmp_path / "net.svg")
    assert dict(matplotlib.rcParams) == before


def test_settings_of_the_user_change_nothing(tmp_path: Path) -> None:
    draw(GRAPHS["one layer"], tmp_path / "plain.svg")
    style = {"font.family": "serif", "font.size": 30, "svg.fonttype": "path", "text.color": "red"}
    with matplotlib.rc_context(style):
        draw(GRAPHS["one layer"], tmp_path / "styled.svg")
    assert (tmp_path / "plain.svg").read_bytes() == (tmp_path / "styled.svg").read_bytes()


def test_drawing_imports_no_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys, densespec\n"
        "from densespec.network.drawing import draw\n"
        "assert 'matplotlib' not in sys.modules\n"
        "draw(densespec.lower(densespec.get('densenet-40-12'), (32, 32)), sys.argv[1])\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.png")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
