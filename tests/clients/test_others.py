"""The clients of other APIs, and clients that other people's programs are built on."""

import json
import os
import subprocess
import sys

import anthropic
import ollama
import pytest

COLD = {"temperature": 0}  # no parameter of the client's any more
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


@pytest.fixture
def claude(url):
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


def ask(client, text="What is the capital of France?", **more):
    more = {"max_tokens": 40, "model": "any", "extra_body": COLD} | more
    return client.messages.create(messages=[{"role": "user", "content": text}], **more)


def test_anthropic(claude):
    answer = ask(claude)
    assert "Paris" in answer.content[0].text and answer.stop_reason == "end_turn"
    with claude.messages.stream(messages=[{"role": "user", "content": "What is the capital of France?"}],
                                extra_body=COLD, max_tokens=40,
                                model="any") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == answer.content[0].text == final.content[0].text
    assert final.usage.output_tokens == answer.usage.output_tokens
    count = claude.messages.count_tokens(
        model="any", messages=[{"role": "user", "content": "What is the capital of France?"}])
    assert count.input_tokens > 20


def test_anthropic_stops(claude):
    answer = ask(claude, stop_sequences=["Paris"])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", "Paris")
    assert ask(claude, max_tokens=2).stop_reason == "max_tokens"


def test_anthropic_tools(claude):
    tool = {"name": "get_weather", "description": "The weather.", "input_schema": WEATHER}
    answer = ask(claude, "How warm is it in Oslo?", tools=[tool], tool_choice={"type": "any"},
                 max_tokens=100)
    assert answer.stop_reason == "tool_use"
    [use] = [b for b in answer.content if b.type == "tool_use"]
    assert use.name == "get_weather" and "city" in use.input
    more = claude.messages.create(
        model="any", max_tokens=20, tools=[tool], tool_choice={"type": "none"}, messages=[
            {"role": "user", "content": "How warm is it in Oslo?"},
            {"role": "assistant", "content": [b.model_dump() for b in answer.content]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id,
                                          "content": "4 degrees"}]}])
    assert more.content


def test_anthropic_errors(claude):
    with pytest.raises(anthropic.BadRequestError) as failure:
        ask(claude, extra_body={"temperature": -1})
    assert failure.value.body["error"]["type"] == "invalid_request_error"


def test_anthropic_documents(claude):
    answer = claude.messages.create(model="any", max_tokens=20, extra_body=COLD, messages=[{
        "role": "user", "content": [
            {"type": "document", "source": {"type": "text", "media_type": "text/plain",
                                            "data": "The password is heliotrope."}},
            {"type": "text", "text": "What is the password?"}]}])
    assert "heliotrope" in answer.content[0].text


def test_ollama(url):
    client = ollama.Client(host=url)
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    options = {"temperature": 0, "num_predict": 32}
    answer = client.chat(model="any", messages=messages, options=options)
    assert "Paris" in answer.message.content and answer.done
    parts = list(client.chat(model="any", messages=messages, options=options, stream=True))
    assert "".join(p.message.content for p in parts) == answer.message.content
    assert parts[-1].done and parts[-1].eval_count == answer.eval_count
    assert "Paris" in client.generate(model="any", prompt="What is the capital of France?",
                                      options=options).response
    [model] = client.list().models
    assert "completion" in client.show(model.model).capabilities
    shaped = client.chat(model="any", messages=messages, format=WEATHER, options=options)
    assert "city" in json.loads(shaped.message.content)
    with pytest.raises(ollama.ResponseError):
        client.chat(model="any", messages=[{"role": "wizard", "content": "x"}])


def test_litellm(url):
    import litellm
    answer = litellm.completion(
        model="openai/any", api_base=f"{url}/v1", api_key="none", temperature=0, max_tokens=32,
        messages=[{"role": "user", "content": "What is the capital of France?"}])
    assert "Paris" in answer.choices[0].message.content
    text = ""
    for chunk in litellm.completion(
            model="openai/any", api_base=f"{url}/v1", api_key="none", temperature=0, max_tokens=32,
            stream=True, messages=[{"role": "user", "content": "What is the capital of France?"}]):
        text += chunk.choices[0].delta.content or ""
    assert text == answer.choices[0].message.content


def test_langchain(url):
    from langchain_openai import ChatOpenAI
    model = ChatOpenAI(base_url=f"{url}/v1", api_key="none", model="any", temperature=0,
                       max_tokens=32)
    answer = model.invoke("What is the capital of France?")
    assert "Paris" in answer.content
    assert answer.response_metadata["token_usage"]["memory"]["tokens_in"] > 20
    assert "".join(c.content for c in model.stream("What is the capital of France?")) == answer.content
    shaped = model.bind(max_tokens=100).with_structured_output(
        {"title": "Place", "description": "A place."} | WEATHER, method="json_schema")
    assert "city" in shaped.invoke("Name a city.")


def test_llm(url, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: here\n  model_name: any\n  api_base: {url}/v1\n")
    run = subprocess.run(
        [sys.executable, "-m", "llm", "-m", "here", "-o", "temperature", "0", "-o", "max_tokens", "32",
         "--key", "none", "What is the capital of France?"],
        env=os.environ | {"LLM_USER_PATH": str(tmp_path)}, capture_output=True, text=True, timeout=120)
    assert "Paris" in run.stdout, run.stderr


def test_openai_node(url):
    folder = os.environ.get("OPENAI_NODE")
    if not folder:
        pytest.skip("OPENAI_NODE names no folder where openai-node is installed")
    script = os.path.join(os.path.dirname(__file__), "openai_node.mjs")
    run = subprocess.run(["node", script, url, folder], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stdout + run.stderr
