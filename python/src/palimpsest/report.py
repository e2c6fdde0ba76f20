"""What a memory holds, and what it let go."""

from __future__ import annotations

import json

import numpy as np


class Report(dict):
    """The report that docs/formats.md describes, as a dictionary, with arrays beside it. It is of one moment: what is
    read or asked afterwards does not change it. `str(report)` is for people.

    Attributes:
        held_share: for every position that was read, the share of heads that still hold it (float32, 0 to 1).
        positions: `positions[layer][head]`, the positions that a KV head holds, ascending (int32).
    """

    def __init__(self, conversation):
        super().__init__(json.loads(conversation.report_json()))
        self.text = conversation.report_text()
        self.held_share = np.asarray(conversation.held_share(), dtype=np.float32)
        counts = [layer.get("held", []) for layer in self.get("layers", [])]
        self.positions = [[np.asarray(conversation.held_positions(layer, head), dtype=np.int32)
                           for head in range(len(heads))] for layer, heads in enumerate(counts)]

    @property
    def spans(self) -> list:
        """What became of every part of the text, in order: `begin`, `end`, `state`, `held_share`, `text`."""
        return self.get("spans", [])

    def __str__(self) -> str:
        return self.text
