"""Runs language models over contexts larger than the memory they are given.

    from palimpsest import Engine

    engine = Engine("model.gguf", budget=1024)
    memory = engine.compress(open("report.txt").read())
    print(memory.ask("Who signed it?"))
    print(memory.report)
"""

from .engine import ChatCompletion, Engine
from .errors import Corrupt, Error, Exhausted, InvalidArgument, NotFound, Unsupported, Unwritable
from .memory import Answer, Memory
from .report import Report

__version__ = "0.1.0"
__all__ = ["Answer", "ChatCompletion", "Corrupt", "Engine", "Error", "Exhausted", "InvalidArgument", "Memory",
           "NotFound", "Report", "Unsupported", "Unwritable"]
