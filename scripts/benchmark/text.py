"""Texts for messages: invented words with the frequencies of English prose.

Random letters would not compress at all, and a repeated sentence would compress to nothing. Either would favor some way of
storage. The report says how well these texts compress.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import zstandard

__all__ = ["Prose", "zstd_ratio"]

VOCABULARY = 5000
# ruff: noqa: SIM905 -- lists of syllables read as text
_ONSETS = "t n s h r d l c m w f g p b v k j st th sh tr pr br cl gr wh ch pl".split()
_VOWELS = "e a o i u ea ou ai io ee".split()
_CODAS = ["", "", "", *"n s r t d l ng nd st nt rs m ck p".split()]


class Prose:
    """An endless source of sentences, which depend only on the seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._words = self._vocabulary()
        self._weights = list(itertools.accumulate(1 / (rank + 2.7) for rank in range(VOCABULARY)))

    def text(self, size: int) -> str:
        """Return a text of exactly `size` ASCII characters."""
        said = ""
        while len(said) < size:
            said += self._sentence() + " "
        return said[: size - 1] + "."

    def words(self, count: int) -> list[str]:
        """Return words with the frequencies of prose."""
        return self._random.choices(self._words, cum_weights=self._weights, k=count)

    def _sentence(self) -> str:
        words = self.words(self._random.randint(5, 19))
        if len(words) > 9:
            words[len(words) // 2] += ","
        return " ".join(words).capitalize() + "."

    def _vocabulary(self) -> list[str]:
        """Return distinct words, of which the frequent ones are short, as in any language."""
        found: dict[str, None] = {}
        candidates = self._candidates()
        while len(found) < VOCABULARY:
            found[next(candidates)] = None
        return list(found)

    def _candidates(self) -> Iterator[str]:
        for number in itertools.count():
            syllables = 1 if number < 150 else self._random.choice((1, 2, 2, 2, 3, 3, 4))
            yield "".join(self._syllable() for _ in range(syllables))

    def _syllable(self) -> str:
        # The first of each are the most frequent, as in English.
        parts = (_ONSETS, _VOWELS, _CODAS)
        return "".join(part[min(int(self._random.expovariate(4 / len(part))), len(part) - 1)] for part in parts)


def zstd_ratio(text: str) -> float:
    """Return how many times smaller zstd makes a text, at its default level."""
    raw = text.encode()
    return len(raw) / len(zstandard.compress(raw))
