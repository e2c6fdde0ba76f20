"""Answers that are under way."""

from __future__ import annotations

import threading

from .errors import Error


class Owner:
    """An engine and all that was made from it belong to the thread that made the engine."""

    def __init__(self):
        self._thread = threading.get_ident()

    def check(self):
        if threading.get_ident() != self._thread:
            raise Error("an engine belongs to the thread that made it; make one for each thread, or hand work to that one")


def pieces(owner: Owner, generation):
    """The text as it is written. A generator that is closed, and Ctrl-C, end the answer within a step."""
    is_over = False
    try:
        while not is_over:
            owner.check()
            is_over = not generation.step()
            text = generation.take_text()
            if text:
                yield text
        is_over = True
    finally:
        if not is_over:
            generation.cancel()


def run(owner: Owner, generation):
    """The whole of it; returns its result."""
    for _ in pieces(owner, generation):
        pass
    return generation.result()
