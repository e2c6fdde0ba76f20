"""What callers say, as the library's own options."""

from __future__ import annotations

from . import _core
from .errors import InvalidArgument


def set_fields(target, given: dict, what: str):
    """Sets attributes that exist; says which do not."""
    for name, value in given.items():
        if not hasattr(target, name):
            known = sorted(n for n in dir(target) if not n.startswith("_"))
            raise InvalidArgument(f"{what} has no '{name}'; there are: {', '.join(known)}")
        try:
            setattr(target, name, value)
        except TypeError:
            raise InvalidArgument(f"{what}: {name} cannot be {value!r}") from None
    return target


def memory_choice(memory=None, budget=None, more=None) -> _core.MemoryChoice:
    """`memory`: POLICY[/ALLOCATOR][+RESIDUE][:NAME=VALUE;...]; `budget`: entries a head (1024), bytes ("64MiB") or a
    share ("25%"); `more`: fields of MemoryChoice by name."""
    choice = _core.MemoryChoice()
    choice.policy = memory or ""
    choice.budget = "" if budget is None else str(budget)
    return set_fields(choice, more or {}, "a memory")


def answer_options(max_tokens=None, stop=None, logprobs=None, **sampling) -> _core.AnswerOptions:
    """`logprobs`: with every token, its log probability and those of so many of the likeliest."""
    given = {"max_tokens": max_tokens, "stop": [stop] if isinstance(stop, str) else stop, "n_likeliest": logprobs}
    options = set_fields(_core.AnswerOptions(), {k: v for k, v in given.items() if v is not None}, "an answer")
    options.sampling = set_fields(_core.SamplingOptions(), {k: v for k, v in sampling.items() if v is not None},
                                  "sampling")
    return options


def text_parts(documents) -> list:
    """Documents: one text, or several; each a text, or a dictionary with `text`, and `name` and `keep` if they are
    wanted. Several stand under their names."""
    if documents is None:
        return []
    if isinstance(documents, (str, dict)):
        documents = [documents]
    documents = list(documents)
    parts = []
    for i, document in enumerate(documents):
        d = {"text": document} if isinstance(document, str) else dict(document)
        unknown = set(d) - {"text", "name", "keep"}
        if unknown or not isinstance(d.get("text"), str):
            raise InvalidArgument("a document is a text, or a dictionary with 'text', 'name' and 'keep'")
        name = d.get("name") or (f"Document {i + 1}" if len(documents) > 1 else "")
        title = f"{name}:\n" if name and len(documents) > 1 else ""
        parts.append(_core.TextPart(title + d["text"].rstrip("\n") + "\n\n", True, bool(d.get("keep"))))
    return parts
