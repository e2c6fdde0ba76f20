"""Palimpsest's models for llm: long documents (fragments, -f) within a budget, on this machine.

    llm -m palimpsest 'Name three rivers.'
    llm -m palimpsest -f report.txt 'Who signed it?' -o budget 1024
    llm palimpsest add big ~/models/big.gguf --budget 2048
"""

import json
import os
import pathlib
from typing import Optional

import click
import llm

DEFAULT = "palimpsest"


def models_file():
    return llm.user_dir() / "palimpsest.json"


def added():
    """{name: {"file", "budget"}} of those that were added."""
    try:
        return json.loads(models_file().read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as e:
        raise click.ClickException(f"{models_file()} is damaged: {e}") from None


@llm.hookimpl
def register_models(register):
    register(Palimpsest(DEFAULT, None, None))
    for name, model in added().items():
        register(Palimpsest(f"{DEFAULT}/{name}", model["file"], model.get("budget")))


@llm.hookimpl
def register_commands(cli):
    @cli.group()
    def palimpsest():
        "Models of Palimpsest"

    @palimpsest.command()
    @click.argument("name")
    @click.argument("file", type=click.Path(exists=True, dir_okay=False))
    @click.option("--budget", help="entries a head (1024), bytes (64MiB) or a share (25%), unless a prompt says another")
    def add(name, file, budget):
        "Makes a GGUF file a model: palimpsest/NAME"
        models = added() | {name: {"file": str(pathlib.Path(file).resolve()), "budget": budget}}
        models_file().parent.mkdir(parents=True, exist_ok=True)
        part = models_file().with_suffix(".part")
        part.write_text(json.dumps(models, indent=1), encoding="utf-8")
        os.replace(part, models_file())
        click.echo(f"{DEFAULT}/{name}: {models[name]['file']}")

    @palimpsest.command(name="list")
    def list_models():
        "Lists those that were added"
        for name, model in added().items():
            click.echo(f"{DEFAULT}/{name}: {model['file']}")


class Palimpsest(llm.Model):
    can_stream = True

    class Options(llm.Options):
        budget: Optional[str] = None
        memory: Optional[str] = None
        max_tokens: Optional[int] = None
        temperature: Optional[float] = None
        top_p: Optional[float] = None
        seed: Optional[int] = None
        report: Optional[bool] = None

    def __init__(self, model_id, file, budget):
        self.model_id, self._file, self._budget, self._engine = model_id, file, budget, None

    def execute(self, prompt, stream, response, conversation=None):
        from palimpsest import Engine

        if self._engine is None:
            self._engine = Engine(self._file)
        o = prompt.options
        messages = []
        if prompt.system:
            messages.append({"role": "system", "content": prompt.system})
        for before in conversation.responses if conversation else []:
            messages.append(user(before.prompt))
            messages.append({"role": "assistant", "content": before.text()})
        messages.append(user(prompt))
        budget = o.budget if o.budget is not None else self._budget
        sampling = {name: getattr(o, name) for name in ("max_tokens", "temperature", "top_p", "seed")}
        for chunk in self._engine.chat(messages, stream=True, budget=budget, memory=o.memory, **sampling):
            text = chunk["choices"][0]["delta"].get("content")
            if text:
                yield text
            if "usage" in chunk:
                response.set_usage(input=chunk["usage"]["prompt_tokens"], output=chunk["usage"]["completion_tokens"])
                response.response_json = {"memory": {k: chunk["memory"][k] for k in ("policy", "budget", "positions",
                                                                                  "bytes")}}
                if o.report:
                    click.echo(str(chunk["memory"]), err=True)


def user(prompt):
    """Fragments are documents, which may be forgotten in part; the prompt itself is the question."""
    parts = [{"type": "document", "text": str(f).rstrip("\n") + "\n\n"} for f in prompt.fragments or []]
    return {"role": "user", "content": parts + [{"type": "text", "text": prompt._prompt or ""}]}
