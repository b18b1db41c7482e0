"""Defines the head of a network, by the names that timm gives its methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from densespec.network.graph import CLASSIFIER, Graph
from densespec.network.ops import GlobalPool

POOL = "global_pool"


class WithHead(nn.Module):
    """This is a network of children that run one after another, the last of which are its head.

    Attributes:
        num_features: The number of channels that :meth:`forward_features` gives.
    """

    num_features: int

    def know_head(self, graph: Graph) -> None:
        """Remember of a graph what the methods need."""
        pools = graph.nodes_of(GlobalPool)
        self.num_features = (graph.source(pools[0]) if pools else graph.output).channels
        self._several = bool(graph.outputs)
        if graph.has_classifier:
            self._read = graph.source(graph[CLASSIFIER]).channels
            self._pool, self._bias = graph.spec.global_pool, graph.spec.classifier_bias

    def check_size(self, shape: Sequence[int]) -> None:
        """Refuse inputs of another size than the network was built for."""
        raise NotImplementedError

    def forward_features(self, x: Tensor) -> Any:
        """Compute the feature map, behind the final ReLU and before the global pool.

        Args:
            x: (batch, channels, *spatial).

        Returns:
            (batch, num_features, *spatial).
        """
        self.check_size(x.shape)
        body, _ = self._cut()
        return self._through(body, x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Any:
        """Compute what the network gives from its feature map.

        Args:
            x: What :meth:`forward_features` gives.
            pre_logits: Whether to leave out the classifier and what follows it.
        """
        _, head = self._cut()
        before = head[: head.index(CLASSIFIER)] if pre_logits and CLASSIFIER in head else head
        return self._through(before, x)

    def get_classifier(self) -> nn.Module:
        """Return the classifier."""
        return self.get_submodule(CLASSIFIER)

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Put a new classifier in the place of the one that is there.

        Args:
            num_classes: How many classes it tells apart; 0 leaves pooled features.
            global_pool: The kind of pool that the network has, or None.

        Raises:
            ValueError: Another pool is asked for, or the network has no classifier.
        """
        if CLASSIFIER not in self._modules:
            raise ValueError(
                "this network has no classifier: densespec.build(..., weights=model, "
                "classes=...) builds the same with one"
            )
        if global_pool not in (None, self._pool):
            raise ValueError(
                f"global_pool = {global_pool!r}, but should be {self._pool!r} or None: for another "
                "end, build the network with include_top=False and pooling"
            )
        like = next(self.parameters())
        new: nn.Module = nn.Identity()
        if num_classes:
            new = nn.Linear(
                self._read, num_classes, bias=self._bias, device=like.device, dtype=like.dtype
            )
        setattr(self, CLASSIFIER, new.train(self.training))

    def _cut(self) -> tuple[list[str], list[str]]:
        """Name the children before the global pool, and those from there on.

        Raises:
            ValueError: The network gives several outputs, so that there is no one feature map.
        """
        if self._several:
            raise ValueError("this network was built with outputs: call it, and it gives them")
        names = list(self._modules)
        first = names.index(POOL) if POOL in names else len(names)
        return names[:first], names[first:]

    def _through(self, names: Sequence[str], x: Any) -> Any:
        for name in names:
            x = self.get_submodule(name)(x)
        return x
