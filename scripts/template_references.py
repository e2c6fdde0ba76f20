#!/usr/bin/env python3
"""Renders chat templates as their authors' tools do: with Python's jinja2, set up like transformers'.

Usage: template_references.py FOLDER > tests/text/template_references.json

FOLDER holds *.jinja, as scripts/setup.sh leaves them in share/llama-templates. Needs jinja2 (pip
install jinja2). What the tests expect is the output of this, with the conversation below.
"""
import datetime
import json
import pathlib
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2026, 1, 2, 12, 0, 0)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Name three rivers."},
    {"role": "assistant", "content": "Rhine, Nile, Amur."},
    {"role": "user", "content": " And a lake, <b>please</b>? "},
]
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_lake",
            "description": "Finds a lake.",
            "parameters": {
                "type": "object",
                "properties": {"region": {"type": "string", "description": "Where to look"}},
                "required": ["region"],
            },
        },
    }
]


class Generation(Extension):
    """{% generation %} marks what assistants say; it writes what is inside."""

    tags = {"generation"}

    def parse(self, parser):
        number = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(number)

    def _inside(self, caller):
        return caller()


def refuse(message):
    raise jinja2.exceptions.TemplateError(message)


def to_json(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                      sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                        extensions=[Generation, loopcontrols])
    env.filters["tojson"] = to_json
    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = NOW.strftime
    return env


def render(source, tools):
    try:
        return environment().from_string(source).render(
            messages=MESSAGES, tools=tools, bos_token="<s>", eos_token="</s>",
            add_generation_prompt=True)
    except Exception as e:  # pylint: disable=broad-except
        return {"refused": str(e)}


def main(folder):
    out = {}
    for path in sorted(pathlib.Path(folder).glob("*.jinja")):
        source = path.read_text(encoding="utf-8")
        out[path.stem] = {"plain": render(source, None), "tools": render(source, TOOLS)}
    json.dump(out, sys.stdout, ensure_ascii=True, indent=1)
    print()


if __name__ == "__main__":
    main(sys.argv[1])
