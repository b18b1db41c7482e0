"""Which cases a target is to meet, and which of them are wanted now."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from densespec.backends import split_mode
from densespec.errors import DensespecError, UnknownName
from densespec.installed import require
from densespec_conformance.asking.subject import Subject, SubjectError, input_size_of
from densespec_conformance.case import Case
from densespec_conformance.running.selection import keyword


class NothingToRun(DensespecError, ValueError):
    """No case is left by what was asked for."""


@dataclass(frozen=True)
class Choice:
    """Which cases are wanted.

    Attributes:
        tier: ``quick``, or ``full`` for all.
        expression: as of ``-k``.
        ids: these cases alone, whatever their tier; empty for no such limit.
    """

    tier: str = "quick"
    expression: str = ""
    ids: tuple[str, ...] = ()

    def of(self, cases: Sequence[Case]) -> tuple[Case, ...]:
        """Those of some cases that are wanted.

        Raises:
            KeywordError: the expression can't be read.
        """
        keep = keyword(self.expression)
        return tuple(
            case for case in cases if keep(case.id) and (case.id in self.ids or self._by_tier(case))
        )

    def _by_tier(self, case: Case) -> bool:
        return not self.ids and (self.tier == "full" or case.tier == "quick")


def cases_of(subject: Subject, size: str | None = None) -> tuple[Case, ...]:
    """Every case that a subject is to meet, in both tiers.

    Args:
        size: of the input, as :func:`input_size_of` reads it, for a subject with a spec.

    Raises:
        SubjectError: there is a size, but no spec that it is for.
        PackageMissing: what the suite itself needs is not installed.
    """
    require("the conformance suite", "hypothesis", extra="conformance")
    if subject.spec is None:
        from densespec_conformance.cases import all_cases

        if size is not None:
            raise SubjectError(f"{subject.name}: an input size is of one network: give its --spec")
        return all_cases(split_mode(subject.name)[1])
    from densespec_conformance.cases.network import network_cases

    sizes = None if size is None else input_size_of(size, subject.spec)
    return network_cases(subject.spec, sizes)


def check_ids(ids: Collection[str], known: Collection[str]) -> None:
    """Check that cases are among those there are.

    Raises:
        UnknownName: one is not; the message suggests near ones.
    """
    for one in ids:
        if one not in known:
            raise UnknownName("case", one, known)
