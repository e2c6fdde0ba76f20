"""Documents that are read once and asked many times."""

from __future__ import annotations

import os
from typing import Iterator, Union

from . import _core
from .options import answer_options
from .report import Report
from .running import Owner, pieces, run


class Answer(str):
    """The text of an answer, and how it came about: `finish_reason` ("end", "stop", "length", "cancelled"),
    `prompt_tokens`, `completion_tokens`, `seconds_to_first_token`, `seconds_writing`, `tokens`."""

    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds_to_first_token: float
    seconds_writing: float
    tokens: list

    @classmethod
    def of(cls, result) -> "Answer":
        answer = cls(result.text)
        answer.finish_reason = result.reason
        answer.prompt_tokens = result.n_prompt
        answer.completion_tokens = result.n_generated
        answer.seconds_to_first_token = result.prefill_s
        answer.seconds_writing = result.decode_s
        answer.tokens = result.tokens
        return answer


class Memory:
    """Documents within a budget, from Engine.compress() or Engine.load(). Every question finds them as reading left
    them: what it and its answer added is dropped again."""

    def __init__(self, owner: Owner, engine: _core.Engine, core: _core.DocumentMemory):
        self._owner, self._engine, self._core = owner, engine, core
        self._running = None

    def ask(self, question: str, *, stream: bool = False, **options) -> Union[Answer, Iterator[str]]:
        """`options`: max_tokens, stop, and those of sampling (temperature, top_p, seed ...). With `stream`, the text
        piece by piece; closing the iterator ends the answer, and so does the next question."""
        self._owner.check()
        self._end()
        self._running = self._core.ask(question, answer_options(**options))
        if stream:
            return pieces(self._owner, self._running)
        return Answer.of(run(self._owner, self._running))

    @property
    def report(self) -> Report:
        """What is held of the documents, and of the last question."""
        self._owner.check()
        return Report(self._core.conversation())

    @property
    def n_tokens(self) -> int:
        """Tokens that were read."""
        return self._core.n_read

    def fork(self) -> "Memory":
        """Another memory of the same documents, to be asked beside this one."""
        self._owner.check()
        self._end()
        return Memory(self._owner, self._engine, self._core.fork(self._engine))

    def save(self, path) -> None:
        """Into a file, for Engine.load() with the same model and the same choice of a memory."""
        self._owner.check()
        self._end()
        self._core.save(os.fspath(path))

    def _end(self):
        if self._running is not None:
            self._running.cancel()
            self._running = None
