"""The package over the default model; skipped where that is not there (PALIMPSEST_MODEL, or scripts/setup.sh)."""

import os
import threading

import numpy as np
import pytest

import palimpsest
from palimpsest import Engine, kvpress

NOTE = "".join(f"Room {i} is painted {c}. " for i, c in enumerate(
    "red blue green white black yellow brown grey pink purple orange gold silver beige".split())) * 3
SECRET = "The password of the cellar door is marzipan. "
DOCUMENT = NOTE + SECRET + NOTE


@pytest.fixture(scope="module")
def engine():
    try:
        return Engine(threads=2)
    except palimpsest.NotFound as e:
        pytest.skip(f"no model: {e}")


def ask(text):
    return [{"role": "user", "content": text}]


def test_chat_has_the_shape_of_openais_answers(engine):
    a = engine.chat(ask("Say hello."), max_tokens=12)
    assert a["object"] == "chat.completion"
    assert a["choices"][0]["message"]["role"] == "assistant"
    assert a.text and a["choices"][0]["finish_reason"] in ("stop", "length")
    assert a["usage"]["total_tokens"] == a["usage"]["prompt_tokens"] + a["usage"]["completion_tokens"]
    assert a.memory["tokens_in"] > a["usage"]["prompt_tokens"]


def test_streams_say_what_whole_answers_say(engine):
    whole = engine.chat(ask("Name three rivers."), max_tokens=16)
    chunks = list(engine.chat(ask("Name three rivers."), max_tokens=16, stream=True))
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == whole.text
    assert chunks[-1]["usage"] == whole["usage"]
    assert all(c["choices"][0]["finish_reason"] is None for c in chunks[:-1])


def test_the_next_turn_reads_only_what_is_new(engine):
    first = engine.chat(ask(DOCUMENT + "What colour is room 3?"), max_tokens=12)
    more = ask(DOCUMENT + "What colour is room 3?") + [{"role": "assistant", "content": first.text}] + ask("And room 4?")
    second = engine.chat(more, max_tokens=12)
    assert second["usage"]["prompt_tokens"] < first["usage"]["prompt_tokens"] / 4
    # As a new engine reads all of it.
    other = Engine(threads=2)
    assert other.chat(more, max_tokens=12)["usage"]["prompt_tokens"] > first["usage"]["prompt_tokens"]


def test_a_stream_that_is_closed_leaves_the_engine_usable(engine):
    stream = engine.chat(ask("Tell a long story."), max_tokens=400, stream=True)
    for _ in range(5):
        next(stream)
    stream.close()
    assert engine.chat(ask("Say hello."), max_tokens=4).text


def test_a_stream_that_is_left_does_not_mix_with_the_next(engine):
    left = engine.chat(ask("Tell a long story."), max_tokens=60, stream=True)
    for _ in range(6):
        next(left)
    whole = engine.chat(ask("Name three rivers."), max_tokens=12)
    rest = list(left)
    assert rest[-1]["choices"][0]["finish_reason"] is None
    assert len(rest[-1]["memory"].held_share) != len(whole.memory.held_share)
    # The whole one goes on, the one that was left does not.
    on = ask("Name three rivers.") + [{"role": "assistant", "content": whole.text}] + ask("And more?")
    assert engine.chat(on, max_tokens=4)["usage"]["prompt_tokens"] < 30


def test_the_same_documents_are_not_read_twice(engine):
    first = engine.chat(ask("What colour is room 3?"), documents=DOCUMENT, max_tokens=8)
    more = ask("What colour is room 3?") + [{"role": "assistant", "content": first.text}] + ask("And room 4?")
    second = engine.chat(more, documents=DOCUMENT, max_tokens=8)
    assert second["usage"]["prompt_tokens"] < 40 < first["usage"]["prompt_tokens"]
    # Another document is another conversation.
    third = engine.chat(more, documents=NOTE, max_tokens=8)
    assert third["usage"]["prompt_tokens"] > 300
    assert third.memory["tokens_in"] < second.memory["tokens_in"]


def test_documents_are_compressed_and_asked_many_times(engine):
    seen = []
    memory = engine.compress(DOCUMENT, question="What is the password of the cellar door?", budget=200,
                             on_progress=lambda *p: seen.append(p))
    assert seen and seen[0][0] in ("reading", "repeating")
    first = memory.ask("What is the password of the cellar door?", max_tokens=24)
    assert "marzipan" in first
    assert first.finish_reason in ("end", "length") and first.completion_tokens > 0
    memory.ask("What colour is room 3?", max_tokens=8)
    assert memory.ask("What is the password of the cellar door?", max_tokens=24) == first
    assert memory.fork().ask("What is the password of the cellar door?", max_tokens=24) == first


def test_memories_are_saved_and_loaded(engine, tmp_path):
    memory = engine.compress([{"name": "a", "text": NOTE}, {"name": "b", "text": SECRET, "keep": True}], budget=200)
    said = memory.ask("What is the password?", max_tokens=12)
    memory.save(tmp_path / "memory")
    assert engine.load(tmp_path / "memory", budget=200).ask("What is the password?", max_tokens=12) == said
    with pytest.raises(palimpsest.Corrupt):
        engine.load(tmp_path / "memory", budget=100)
    (tmp_path / "memory").write_bytes(b"no memory")
    with pytest.raises(palimpsest.Corrupt):
        engine.load(tmp_path / "memory", budget=200)
    with pytest.raises(FileNotFoundError):
        engine.load(tmp_path / "none", budget=200)


def test_reports_have_spans_and_arrays(engine):
    report = engine.compress(DOCUMENT, budget=200, memory="leverage").report
    assert report["policy"] == "leverage"
    assert report.held_share.dtype == np.float32 and len(report.held_share) == report["tokens_in"]
    held = [len(p) for heads in report.positions for p in heads]
    assert abs(np.mean(held) - 200) < 30
    for heads in report.positions:
        for positions in heads:
            assert positions.dtype == np.int32 and (np.diff(positions) > 0).all()
    assert "".join(s["text"] for s in report.spans).count("marzipan") == 1
    assert "leverage" in str(report)


def test_an_engine_belongs_to_its_thread(engine):
    caught = []

    def elsewhere():
        try:
            engine.chat(ask("Hello?"), max_tokens=2)
        except palimpsest.Error as e:
            caught.append(str(e))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert caught and "thread" in caught[0]


@pytest.mark.parametrize("call, error", [
    (lambda e: e.chat([]), palimpsest.InvalidArgument),
    (lambda e: e.chat([{"role": "wizard", "content": "x"}]), ValueError),
    (lambda e: e.chat(ask("x"), wizardry=3), ValueError),
    (lambda e: e.chat(ask("x"), temperature="hot"), ValueError),
    (lambda e: e.chat(ask("x"), max_tokens="7"), ValueError),
    (lambda e: e.chat(ask("x"), stop=5), ValueError),
    (lambda e: e.chat("x"), ValueError),
    (lambda e: e.chat([{"role": "user", "content": [{"type": "text"}]}]), ValueError),
    (lambda e: e.chat([{"role": "user", "content": [{"type": "image_url"}]}]), ValueError),
    (lambda e: e.compress(""), ValueError),
    (lambda e: e.compress("x", memory="magic", budget=64), (palimpsest.NotFound, ValueError)),
    (lambda e: e.compress("x", budget="lots"), ValueError),
    (lambda e: e.compress("word " * 20000), palimpsest.Exhausted),
    (lambda e: Engine("/no/such/model.gguf"), FileNotFoundError),
    (lambda e: Engine(magic=True), ValueError),
])
def test_what_cannot_be_is_said(engine, call, error):
    with pytest.raises(error):
        call(engine)
    assert engine.chat(ask("Say hello."), max_tokens=2).text is not None


def test_llama_cpp_pythons_call(engine):
    a = engine.create_chat_completion(messages=ask("Say hello."), max_tokens=8, temperature=0.0)
    assert a["choices"][0]["message"]["content"]


@pytest.mark.parametrize("press", kvpress.PRESSES)
def test_every_press_keeps_its_share(engine, press):
    made = press(compression_ratio=0.5)
    choice = made.choice()
    memory = engine.compress(DOCUMENT, memory=choice.pop("policy"), budget="", **choice)
    report = memory.report
    held = np.mean([len(p) for heads in report.positions for p in heads])
    assert held == pytest.approx(memory.n_tokens / 2, rel=0.03)


def test_kvpress_pipeline(engine):
    pipe = kvpress.pipeline("kv-press-text-generation", model=engine)
    question = "What is the password of the cellar door?"
    full = pipe(DOCUMENT, question=question, max_new_tokens=24)["answer"]
    assert "marzipan" in full
    both = pipe(DOCUMENT, questions=[question, "What colour is room 3?"], max_new_tokens=24,
                press=kvpress.AdaKVPress(kvpress.ExpectedAttentionPress(compression_ratio=0.2)))["answers"]
    assert len(both) == 2
    for wrapped in (kvpress.ChunkKVPress(kvpress.SnapKVPress(0.3)), kvpress.CriticalKVPress(kvpress.KnormPress(0.3)),
                    kvpress.CriticalAdaKVPress(kvpress.KnormPress(0.3))):
        assert isinstance(pipe(DOCUMENT, question=question, press=wrapped)["answer"], str)
    for bad in ({}, {"question": "a", "questions": ["b"]}, {"question": "a", "max_context_length": 5}):
        with pytest.raises(ValueError):
            pipe(DOCUMENT, **bad)
    with pytest.raises(ValueError):
        kvpress.pipeline("translation", model=engine)
