"""The project's own tests; the suite's cases run in the same pytest run."""

from __future__ import annotations

import numpy as np

import densespec


def test_network_is_built_by_its_published_name() -> None:
    model = densespec.build("densenet-40-12", backend="plain-jax")
    assert model.weights["stem.conv.kernel"].shape == (16, 3, 3, 3)


def test_a_sample_is_classified_alike_in_every_batch() -> None:
    model = densespec.build("densenet-40-12", backend="plain-jax")
    x = np.random.default_rng(0).standard_normal((2, 3, 32, 32))
    engine, name = densespec.get_backend("plain-jax"), model.graph.output.name
    together = engine.forward(model, model.graph, x, [name])[name]
    alone = engine.forward(model, model.graph, x[:1], [name])[name]
    np.testing.assert_allclose(together[:1], alone, rtol=1e-4)
