"""A model, ready to answer."""

from __future__ import annotations

import os
import time
import uuid
from typing import Any, Callable, Iterator, Optional, Union

from . import _core
from .errors import InvalidArgument
from .memory import Memory
from .options import answer_options, memory_choice, set_fields, text_parts
from .report import Report
from .running import Owner, pieces, run

FINISH = {"end": "stop", "stop": "stop", "length": "length", "cancelled": "stop"}


class ChatCompletion(dict):
    """An answer in the shape of OpenAI's API: `["choices"][0]["message"]["content"]`. Beside that, `.text`, and
    `.memory`: what is held of the conversation."""

    memory: Report

    @property
    def text(self) -> str:
        return self["choices"][0]["message"]["content"]


class Engine:
    """A model from a GGUF file.

    Args:
        model: the file; None: $PALIMPSEST_MODEL, or the one that set-up fetched.
        memory: what is kept, as POLICY[/ALLOCATOR][+RESIDUE][:NAME=VALUE;...]; None: the best there is.
        budget: how much: entries a head (1024), bytes ("64MiB"), a share of the prompt ("25%"). None: everything.
        threads: 0: one for every processor.
        chunk: tokens read in one step.
        reading: how rows are multiplied: "auto", "quantised", "int8", "bf16" or "f32".
        latent: an adapter (a file or a folder): documents are read as latents.
        chat_template: instead of the model's own: a name, a file with a Jinja template, or its text.
        more: other fields of a memory: n_sink, n_recent, one_shot, entries ("q8_0"), prefixes, context ...

    An engine and what was made from it belong to the thread that made it. Others get an Error.
    """

    def __init__(self, model: Union[str, os.PathLike, None] = None, *, memory: Optional[str] = None,
                 budget: Union[int, str, None] = None, threads: int = 0, chunk: int = 512, reading: str = "auto",
                 latent: Union[str, os.PathLike, None] = None, chat_template: str = "", **more: Any):
        options = set_fields(_core.EngineOptions(), {
            "model": "" if model is None else os.fspath(model), "threads": threads, "chunk": chunk,
            "reading": reading}, "an engine")
        self._choice = (memory, budget, more)
        memory_choice(memory, budget, more)  # what cannot be costs no loading
        self._owner = Owner()
        self._core = _core.Engine(options)
        self._template = chat_template
        self._latent = None
        if latent is not None:
            adapter = _core.LatentOptions()
            adapter.adapter = os.fspath(latent)
            self._latent = _core.LatentContext(self._core, adapter)
        self._talk = self._said = self._key = self._running = None

    @property
    def model_name(self) -> str:
        return self._core.model_name

    @property
    def architecture(self) -> str:
        return self._core.architecture

    @property
    def trained_context(self) -> int:
        """Tokens that the model was trained to see at once."""
        return self._core.trained_context

    def compress(self, documents, *, question: Optional[str] = None, memory: Optional[str] = None,
                 budget: Union[int, str, None] = None, on_progress: Optional[Callable[[str, int, int], Any]] = None,
                 **more: Any) -> Memory:
        """Reads documents within a budget, to be asked many times.

        Args:
            documents: a text, or several: texts, or dictionaries with `text`, `name` and `keep`.
            question: what will be asked, if that is known: what is kept is chosen for it.
            memory, budget, more: instead of the engine's own.
            on_progress: is told what goes on ("reading", "repeating"), tokens done, and of how many; False ends it.
        """
        self._owner.check()
        conversation = self._options(memory, budget, more)
        core = _core.DocumentMemory(self._core, text_parts(documents), conversation, question or "")
        while core.read_step():
            self._owner.check()
            if on_progress is not None and on_progress(*core.progress()) is False:
                raise InterruptedError("reading was ended by on_progress")
        return Memory(self._owner, self._core, core)

    def load(self, path, *, memory: Optional[str] = None, budget: Union[int, str, None] = None, **more: Any) -> Memory:
        """What Memory.save() wrote. The memory's choice must be the one that it was made with."""
        self._owner.check()
        return Memory(self._owner, self._core, _core.DocumentMemory.load(
            self._core, os.fspath(path), self._options(memory, budget, more)))

    def chat(self, messages: list, *, documents=None, stream: bool = False, memory: Optional[str] = None,
             budget: Union[int, str, None] = None, more: Optional[dict] = None,
             **options: Any) -> Union[ChatCompletion, Iterator[dict]]:
        """Answers a conversation.

        Args:
            messages: as in OpenAI's API: dictionaries with `role` and `content`, a text or a list of text parts.
            documents: stand before the last question; what may be forgotten of them is.
            stream: the answer as chunks; closing the iterator ends it.
            memory, budget, more: instead of the engine's own.
            options: max_tokens, stop, temperature, top_p, seed ...

        Messages that go on from the last answer read only what is new; the same documents are not read twice, others
        begin anew. A stream ends where the next chat() begins: its last chunk then has no `finish_reason`.
        """
        self._owner.check()
        answer = answer_options(**options)
        parsed = [message_of(m) for m in messages]
        if not parsed:
            raise InvalidArgument("there is no message to answer")
        turn = self._begin(parsed, text_parts(documents), (memory, budget, more or {}), answer)
        if stream:
            return self._chunks(turn)
        return self._completion(turn, run(self._owner, turn.generation))

    def create_chat_completion(self, messages: list, **options: Any) -> Union[ChatCompletion, Iterator[dict]]:
        """chat(), for those who come from llama-cpp-python: temperature 0.2 and as many tokens as there is room for,
        unless said."""
        options.setdefault("temperature", 0.2)
        if options.get("max_tokens") in (None, -1):
            options["max_tokens"] = self.trained_context
        return self.chat(messages, **options)

    # ---- inside ----

    def _options(self, memory, budget, more) -> _core.ConversationOptions:
        own_memory, own_budget, own_more = self._choice
        if memory is None and budget is None:
            memory, budget = own_memory, own_budget
        elif memory is None:
            memory = own_memory
        elif budget is None:
            budget = own_budget
        options = _core.ConversationOptions()
        options.memory = memory_choice(memory, budget, {**own_more, **more})
        options.chat_template = self._template
        if self._latent is not None:
            options.set_latent(self._latent)
        return options

    def _begin(self, messages, documents, choice, answer) -> "Turn":
        self._end()
        # What stands before the last question belongs to the conversation.
        key = (repr(choice), tuple((p.text, p.keep) for p in documents))
        said = [(m.role, tuple((p.text, p.is_context) for p in m.parts)) for m in messages]
        goes_on = (self._talk is not None and key == self._key and messages[-1].role == "user"
                   and said[:-1] == self._said)
        if not goes_on:
            self._talk, self._key = _core.Conversation(self._core, self._options(*choice)), key
        self._said = None  # until the answer is whole
        if goes_on:
            self._running = self._talk.ask(list(messages[-1].parts), answer)
        else:
            first = [_core.ChatMessage(m.role, list(m.parts)) for m in messages]
            at = max((i for i, m in enumerate(first) if m.role == "user"), default=len(first) - 1)
            first[at] = _core.ChatMessage(first[at].role, documents + list(first[at].parts))
            self._running = self._talk.reply(first, answer)
        return Turn(self._running, self._talk, said)

    def _note(self, turn: "Turn", result) -> bool:
        """So that the next turn goes on from here. False: another one has begun meanwhile, or it was ended."""
        if turn.generation is not self._running or result.reason == "cancelled":
            return False
        if turn.said[-1][0] != "assistant":
            self._said = turn.said + [("assistant", ((result.text, False),))]
        return True

    def _end(self):
        if self._running is not None:
            self._running.cancel()
            self._running = None

    def _head(self, kind):
        return {"id": f"chatcmpl-{uuid.uuid4().hex}", "object": kind, "created": int(time.time()),
                "model": self.model_name}

    def _usage(self, result):
        return {"prompt_tokens": result.n_prompt, "completion_tokens": result.n_generated,
                "total_tokens": result.n_prompt + result.n_generated}

    def _completion(self, turn: "Turn", result) -> ChatCompletion:
        self._note(turn, result)
        completion = ChatCompletion(self._head("chat.completion"))
        completion["choices"] = [{"index": 0, "message": {"role": "assistant", "content": result.text},
                                  "logprobs": logprobs_of(result), "finish_reason": FINISH[result.reason]}]
        completion["usage"] = self._usage(result)
        completion.memory = Report(turn.talk)
        return completion

    def _chunks(self, turn: "Turn"):
        head = self._head("chat.completion.chunk")

        def chunk(delta, reason=None, **more):
            return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], **more}

        yield chunk({"role": "assistant", "content": ""})
        for text in pieces(self._owner, turn.generation):
            yield chunk({"content": text})
        result = turn.generation.result()
        is_whole = self._note(turn, result)
        yield chunk({}, FINISH[result.reason] if is_whole else None, usage=self._usage(result), memory=Report(turn.talk))


class Turn:
    """An answer that was begun, the conversation it is of, and what was said before it."""

    def __init__(self, generation, talk, said):
        self.generation, self.talk, self.said = generation, talk, said


def message_of(message: dict) -> _core.ChatMessage:
    if not isinstance(message, dict):
        raise InvalidArgument(f"a message is a dictionary with 'role' and 'content', not {type(message).__name__}")
    role, content = message.get("role"), message.get("content")
    role = {"developer": "system"}.get(role, role)
    if role not in ("system", "user", "assistant"):
        raise InvalidArgument(f"a message has the role {role!r}; it can be system, user or assistant")
    if isinstance(content, str):
        return _core.ChatMessage(role, [_core.TextPart(content)])
    if not isinstance(content, list):
        raise InvalidArgument("a message's content is a text, or a list of parts")
    parts = []
    for part in content:
        if not isinstance(part, dict) or part.get("type") not in ("text", "document"):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise InvalidArgument(f"a part of a message is {kind!r}; it can be text or document")
        if not isinstance(part.get("text"), str):
            raise InvalidArgument("a part of a message has no text")
        parts.append(_core.TextPart(part["text"], part["type"] == "document", bool(part.get("keep"))))
    return _core.ChatMessage(role, parts)


def logprobs_of(result):
    if not result.likelihoods:
        return None
    return {"content": [{"token": l.token, "logprob": l.log_probability,
                         "top_logprobs": [{"token": o.token, "logprob": o.log_probability} for o in l.likeliest]}
                        for l in result.likelihoods]}
