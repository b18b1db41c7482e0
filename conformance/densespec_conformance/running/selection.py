"""Choosing cases by words, as ``pytest -k`` does: ``training and not (dropout or three)``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from densespec.errors import DensespecError

Keep = Callable[[str], bool]
"""Whether a text has what the expression asks for."""

TOKEN = re.compile(r"\s*(?:(\()|(\))|([^\s()]+))")


class KeywordError(DensespecError, ValueError):
    """An expression that can't be read: where, and what was expected there."""


def keyword(expression: str) -> Keep:
    """The test that an expression stands for; letters of either case are the same.

    Words are joined by ``and``, ``or`` and ``not``, which bind as in Python, and by parentheses; a
    word holds where the text contains it. The empty expression holds everywhere.

    Raises:
        KeywordError: it can't be read.
    """
    if not expression.strip():
        return lambda text: True
    return _Parser(expression).parse()


class _Parser:
    """A token ahead, one method for each rule."""

    def __init__(self, expression: str) -> None:
        self._expression = expression
        self._tokens = self._split()
        self._advance()

    def parse(self) -> Keep:
        keep = self._either()
        if self._token:
            raise self._error("'and', 'or' or the end")
        return keep

    def _split(self) -> Iterator[tuple[str, int]]:
        for found in TOKEN.finditer(self._expression):
            yield found.group().strip(), found.start()
        yield "", len(self._expression)

    def _advance(self) -> None:
        self._token, self._at = next(self._tokens)

    def _take(self, token: str) -> bool:
        found = self._token.lower() == token
        if found:
            self._advance()
        return found

    def _either(self) -> Keep:
        keep = self._both()
        while self._take("or"):
            keep = _any_of(keep, self._both())
        return keep

    def _both(self) -> Keep:
        keep = self._negated()
        while self._take("and"):
            keep = _all_of(keep, self._negated())
        return keep

    def _negated(self) -> Keep:
        if self._take("not"):
            inner = self._negated()
            return lambda text: not inner(text)
        if self._take("("):
            keep = self._either()
            if not self._take(")"):
                raise self._error("')'")
            return keep
        word = self._token.lower()
        if word in ("", ")", "and", "or"):
            raise self._error("a word")
        self._advance()
        return lambda text: word in text.lower()

    def _error(self, expected: str) -> KeywordError:
        found = repr(self._token) if self._token else "the end"
        return KeywordError(
            f"-k {self._expression!r}: {found} at column {self._at + 1}, but should be {expected}"
        )


def _any_of(first: Keep, second: Keep) -> Keep:
    return lambda text: first(text) or second(text)


def _all_of(first: Keep, second: Keep) -> Keep:
    return lambda text: first(text) and second(text)
