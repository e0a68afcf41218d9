"""Words from outside: what agents, programs and peers say, made so that it can be shown and kept."""

from __future__ import annotations


def harmless(text: str) -> str:
    """Text without control characters, so that it cannot drive a terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def one_line(text: str, most: int = 300) -> str:
    """Words as they are kept: one line of letters that can be seen, of a length that can be read."""
    return " ".join(harmless(text).split())[:most]
