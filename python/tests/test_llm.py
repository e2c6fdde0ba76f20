"""The plugin for llm, over the default model."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("llm", reason="llm is not installed")
import palimpsest  # noqa: E402

PLUGIN = pathlib.Path(__file__).parents[1] / "llm-palimpsest"
# As `llm` does it, with the plugin beside: nothing need be installed.
PROGRAM = ("import sys; sys.path.insert(0, sys.argv.pop(1)); import llm_palimpsest, llm.cli, llm.plugins; "
           "llm.plugins.pm.register(llm_palimpsest, 'palimpsest'); llm_palimpsest.register_commands(llm.cli.cli); "
           "llm.cli.cli()")
NOTE = "".join(f"Room {i} is painted in colour {i * 3}. " for i in range(60))


@pytest.fixture
def llm(tmp_path):
    try:
        palimpsest.Engine(threads=1)
    except palimpsest.NotFound as e:
        pytest.skip(f"no model: {e}")

    def run(*arguments, status=0):
        done = subprocess.run([sys.executable, "-c", PROGRAM, str(PLUGIN), *map(str, arguments)], capture_output=True,
                              text=True, env=os.environ | {"LLM_USER_PATH": str(tmp_path / "llm")}, stdin=subprocess.DEVNULL,
                              timeout=300)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return run


def test_answers_and_goes_on(llm):
    assert llm("-m", "palimpsest", "Say hello.", "-o", "max_tokens", 8, "-o", "temperature", 0).stdout.strip()
    assert llm("-c", "And again.", "-o", "max_tokens", 8).stdout.strip()


def test_fragments_are_documents_within_a_budget(llm, tmp_path):
    note = tmp_path / "note.txt"
    note.write_text(NOTE + "The password of the cellar is marzipan. " + NOTE)
    asked = llm("-m", "palimpsest", "-f", note, "What is the password of the cellar?", "-o", "budget", 200, "-o", "temperature",
                0, "-o", "max_tokens", 20, "-o", "report", 1)
    assert "marzipan" in asked.stdout
    assert "200 entries a head" in asked.stderr and "policy question" in asked.stderr
    logged = json.loads(llm("logs", "-n", 1, "--json").stdout)[0]
    assert logged["response_json"]["memory"]["budget"]["entries_per_head"] == 200
    assert logged["input_tokens"] > 500


def test_models_are_added(llm, tmp_path):
    file = tmp_path / "small.gguf"
    file.write_bytes(b"no model")
    llm("palimpsest", "add", "small", file, "--budget", 64)
    assert str(file) in llm("palimpsest", "list").stdout
    assert "palimpsest/small" in llm("models").stdout
    assert "small.gguf" in llm("-m", "palimpsest/small", "Hello", status=1).stderr
