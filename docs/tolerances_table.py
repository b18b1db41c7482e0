"""Writes the tables in ``docs/tolerances.md``: ``python -m docs.tolerances_table``.

The bounds need nothing but numpy. The other table asks every installed backend for what its errors
come to, as a share of what is allowed.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Sequence
from importlib import metadata
from pathlib import Path

from densespec.atomic import atomic_path
from densespec.backends import backends
from densespec.network.catalogue import get
from densespec.network.graph import lower
from densespec_conformance.answering.target import ProcessTarget, Target
from densespec_conformance.asking.questions import images, random_weights
from densespec_conformance.asking.requests import Forward, NetworkToBuild, Train, Unsupported
from densespec_conformance.cases import float32_step, forward, precision, training
from densespec_conformance.judging.compare import assert_close, assert_same_steps
from densespec_conformance.judging.expected import Reference, given_in
from densespec_conformance.judging.outcome import Outcome
from densespec_conformance.judging.rounding import ARITHMETIC
from densespec_conformance.judging.tolerance import Bounds

PAGE = Path(__file__).with_name("tolerances.md")
DTYPES = ("float64", "float32", "bfloat16", "float16")
TIMEOUT = 300.0

NETWORKS = {
    "the suite's small network": (forward.SMALL, (32, 32)),
    "densenet-40-12": (get("densenet-40-12"), (32, 32)),
    "densenet121": (get("densenet121"), (64, 64)),
    "densenet264": (get("densenet264"), (64, 64)),
}


def bounds() -> str:
    """Bounds of inference at a few depths, by dtype."""
    rows = []
    for name, (spec, size) in NETWORKS.items():
        graph = lower(spec, size)
        output, features = graph.output.name, graph["global_pool"].inputs[0]
        network = NetworkToBuild(spec, input_size=size, weights=random_weights(graph, name))
        taps = ("stem.conv", features, output)
        asked = Forward(network, images(spec, size, 1, name), taps)
        found = [_bounds(name, given_in(dtype, asked)) for dtype in DTYPES]
        for tap in taps:
            about = f"{name}, {len(graph.nodes) - 1} ops" if tap == taps[0] else ""
            rows.append([about, f"`{tap}`", *(f"{each.of(tap):.0e}" for each in found)])
    units = ["", "roundoff", *(f"{ARITHMETIC[dtype].unit:.1e}" for dtype in DTYPES)]
    return _markdown(["network", "value of", *DTYPES], [units, *rows])


def _bounds(name: str, asked: Forward) -> Bounds:
    return Reference().expect(name, lambda: asked).bounds


def shares() -> str:
    """What every installed backend needs of its bounds at most."""
    reference = Reference()
    columns = [f"{dtype} inference" for dtype in DTYPES]
    head = ["backend", *columns, "12 float64 training steps", "a float32 training step"]
    rows = []
    for name in backends():
        with ProcessTarget(name, TIMEOUT, threads=1) as target:
            found = [_inference(dtype, target, reference) for dtype in DTYPES]
            found.append(_training(training.request(training.ROWS[0]), target, reference))
            found.append(_training(float32_step.decided_step(), target, reference))
        rows.append([f"`{name}`", *found])
    packages = ("numpy", "torch", "tensorflow-cpu", "jax", "keras")
    versions = ", ".join(f"{package} {metadata.version(package)}" for package in packages)
    return f"{_markdown(head, rows)}\n\nMeasured with {versions} on {platform.machine()}."


def _inference(dtype: str, target: Target, reference: Reference) -> str:
    rows = [row for row in forward.ROWS if row.name in precision.QUICK]
    outcomes = []
    for row in rows:
        asked = forward.request(row, dtype)
        expected = reference.expect(f"{row.name} {dtype}", lambda asked=asked: asked)
        try:
            answer = target.ask(asked)
        except Unsupported:
            return "not offered"
        outcomes.append(assert_close(actual=answer, expected=expected, order=asked.taps))
    return _share(outcomes)


def _training(asked: Train, target: Target, reference: Reference) -> str:
    expected = reference.expect(f"training {asked.network.dtype}", lambda: asked)
    return _share([assert_same_steps(actual=target.ask(asked), expected=expected)])


def _share(outcomes: Sequence[Outcome]) -> str:
    return f"{max(outcome.strain for outcome in outcomes):.0%}".replace("%", " %")


def _markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


TABLES = {"bounds": bounds, "shares": shares}


def page() -> str:
    text = PAGE.read_text(encoding="utf-8")
    for name, make in TABLES.items():
        start, end = f"<!-- generated: {name} -->\n", f"<!-- end: {name} -->\n"
        before, _, rest = text.partition(start)
        text = f"{before}{start}\n{make()}\n\n{end}{rest.partition(end)[2]}"
    return text


if __name__ == "__main__":
    text = page()
    with atomic_path(PAGE) as temporary:
        temporary.write_text(text, encoding="utf-8")
