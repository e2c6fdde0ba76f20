"""The names of kvpress (NVIDIA, 0.5.5), over this engine: for experiments that were written for it.

    from palimpsest.kvpress import SnapKVPress, pipeline

    pipe = pipeline("kv-press-text-generation", model="model.gguf")
    pipe(context, question="Who signed it?", press=SnapKVPress(compression_ratio=0.5))["answer"]

A press says which policy chooses and what share of the context goes, once, when all of it was read (`one_shot`). What
differs is in docs/python.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Optional, Sequence, Union

from .engine import Engine
from .errors import InvalidArgument


def _settings(press) -> list:
    """A press' own arguments, by our names."""
    values = {ours: getattr(press, theirs) for theirs, ours in press.options.items()}
    return [f"{name}={int(value) if isinstance(value, bool) else value}" for name, value in values.items()]


@dataclass
class BasePress:
    """`compression_ratio`: the share of the context's entries that goes, 0 to 1."""

    compression_ratio: float = 0.0

    policy: ClassVar[str] = ""
    allocator: ClassVar[str] = ""
    options: ClassVar[dict] = {}  # our names for further fields

    def choice(self) -> dict:
        """Fields of a memory."""
        if not 0 <= self.compression_ratio < 1:
            raise InvalidArgument(f"compression_ratio is {self.compression_ratio}; it goes from 0 to below 1")
        return {"policy": self.policy, "allocator": self.allocator,
                "settings": _settings(self), "evicted": float(self.compression_ratio), "one_shot": True, "n_sink": 0, "n_recent": 0}


@dataclass
class RandomPress(BasePress):
    seed: int = 0
    policy = "random"
    options = {"seed": "seed"}


@dataclass
class KnormPress(BasePress):
    policy = "key-norm"


@dataclass
class KeyDiffPress(BasePress):
    policy = "key-diff"


@dataclass
class StreamingLLMPress(BasePress):
    n_sink: int = 4
    policy = "window"
    options = {"n_sink": "sinks"}


@dataclass
class LagKVPress(BasePress):
    n_sink: int = 4
    lag_size: int = 128
    policy = "lag-kv"
    options = {"n_sink": "sinks", "lag_size": "lag"}


@dataclass
class SnapKVPress(BasePress):
    window_size: int = 64
    kernel_size: int = 5
    policy = "snap-kv"
    options = {"window_size": "window", "kernel_size": "kernel"}


@dataclass
class PyramidKVPress(SnapKVPress):
    beta: int = 20
    policy = "pyramid-kv"
    options = {"window_size": "window", "kernel_size": "kernel", "beta": "beta"}


@dataclass
class TOVAPress(BasePress):
    policy = "tova"


@dataclass
class ObservedAttentionPress(BasePress):
    policy = "h2o"


@dataclass
class ExpectedAttentionPress(BasePress):
    n_future_positions: int = 512
    n_sink: int = 4
    use_covariance: bool = True
    use_vnorm: bool = True
    epsilon: float = 0.0
    policy = "expected-attention"
    options = {"n_future_positions": "future", "n_sink": "sinks", "use_covariance": "covariance",
               "use_vnorm": "value-norm", "epsilon": "epsilon"}


@dataclass
class CURPress(BasePress):
    num_sinks: int = 4
    local_window_size: int = 16
    policy = "cur"
    options = {"num_sinks": "sinks", "local_window_size": "block"}


@dataclass
class LeverageScorePress(BasePress):
    policy = "leverage"


@dataclass
class KVzipPress(BasePress):
    n_sink: int = 4
    policy = "kvzip"
    options = {"n_sink": "sinks"}


@dataclass
class _WrapperPress:
    """Another press, whose choice is shared out otherwise."""

    press: BasePress

    allocator: ClassVar[str] = ""
    options: ClassVar[dict] = {}

    def choice(self) -> dict:
        choice = self.press.choice()
        return {**choice, "allocator": self.allocator or choice["allocator"],
                "settings": choice["settings"] + _settings(self)}

    @property
    def compression_ratio(self) -> float:
        return self.press.compression_ratio

    @compression_ratio.setter
    def compression_ratio(self, ratio: float):
        self.press.compression_ratio = ratio


@dataclass
class ChunkKVPress(_WrapperPress):
    chunk_length: int = 20
    options = {"chunk_length": "chunk"}

    def choice(self) -> dict:
        if type(self.press) is not SnapKVPress:
            raise InvalidArgument("ChunkKVPress is over SnapKVPress here")
        return {**super().choice(), "policy": "chunk-kv"}


@dataclass
class AdaKVPress(_WrapperPress):
    alpha_safeguard: float = 0.20
    allocator = "adaptive"
    options = {"alpha_safeguard": "safeguard"}

    def choice(self) -> dict:
        if isinstance(self.press, CriticalKVPress):
            raise InvalidArgument("say CriticalAdaKVPress for both")
        return super().choice()


@dataclass
class CriticalKVPress(_WrapperPress):
    epsilon: float = 1e-4
    first_stage_ratio: float = 0.5
    allocator = "critical"
    options = {"epsilon": "critical-epsilon", "first_stage_ratio": "first-stage"}


@dataclass
class CriticalAdaKVPress(_WrapperPress):
    alpha_safeguard: float = 0.20
    epsilon: float = 1e-4
    first_stage_ratio: float = 0.5
    allocator = "critical-adaptive"
    options = {**CriticalKVPress.options, **AdaKVPress.options}


class KVPressTextGenerationPipeline:
    """Called as kvpress' pipeline is: a context, one question or several, a press."""

    def __init__(self, model, **engine):
        self.engine = model if isinstance(model, Engine) else Engine(model, **engine)

    def __call__(self, context: str, question: Optional[str] = None, questions: Optional[Sequence[str]] = None,
                 answer_prefix: Optional[str] = None, press=None, max_new_tokens: int = 50,
                 max_context_length: Optional[int] = None) -> dict:
        """Returns {"answer": ...} for one question, {"answers": [...]} for several; greedy, as there. All are asked of
        the same compressed context."""
        if (question is None) == (questions is None):
            raise InvalidArgument("give either 'question' or 'questions'")
        if answer_prefix:
            raise InvalidArgument("answer_prefix: put it at the end of the question")
        if max_context_length is not None:
            raise InvalidArgument("max_context_length: cut the context before; nothing is cut silently here")
        choice = {} if press is None else press.choice()
        policy = choice.pop("policy", "full")
        memory = self.engine.compress(context, memory=policy, budget="", **choice)
        asked = [question] if questions is None else list(questions)
        answers = [str(memory.ask(q, max_tokens=max_new_tokens, temperature=0.0)) for q in asked]
        return {"answer": answers[0]} if questions is None else {"answers": answers}


def pipeline(task: str, model: Union[str, Engine, None] = None, **engine) -> KVPressTextGenerationPipeline:
    """transformers' `pipeline`, for the one task that kvpress has."""
    if task != "kv-press-text-generation":
        raise InvalidArgument(f"the task is '{task}'; here it can only be 'kv-press-text-generation'")
    return KVPressTextGenerationPipeline(model, **engine)


PRESSES = [RandomPress, KnormPress, KeyDiffPress, StreamingLLMPress, LagKVPress, SnapKVPress, PyramidKVPress, TOVAPress,
           ObservedAttentionPress, ExpectedAttentionPress, CURPress, LeverageScorePress, KVzipPress]
