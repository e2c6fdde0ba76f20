import json

import openai
import pytest

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
        },
    },
}


@pytest.fixture
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


def ask(client, messages=FRANCE, **more):
    more = {"temperature": 0, "max_tokens": 32, "model": "any"} | more
    return client.chat.completions.create(messages=messages, **more)


def test_answers(client):
    answer = ask(client)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.prompt_tokens > 20
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streams_what_it_answers(client):
    whole = ask(client).choices[0].message.content
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole
    assert all(c.id == chunks[0].id for c in chunks)
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0
    assert chunks[-2].memory["tokens_in"] == chunks[-1].usage.memory["tokens_in"]


def test_no_usage_unless_asked(client):
    assert all(c.choices for c in ask(client, stream=True))


def test_goes_on_from_what_it_read(client):
    first = ask(client, [{"role": "user", "content": "My name is Tobias Quince. Who am I?"}])
    messages = [{"role": "user", "content": "My name is Tobias Quince. Who am I?"},
                {"role": "assistant", "content": first.choices[0].message.content},
                {"role": "user", "content": "Thank you."}]
    second = ask(client, messages)
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached >= first.usage.total_tokens - 2


def test_a_memory_is_bounded_and_reported(client):
    text = "The sky was grey that day, and nobody went out. " * 120
    answer = ask(client, [{"role": "user", "content": f"{text}\nWhat colour was the sky?"}],
                 extra_body={"memory": {"budget": 256, "report": "spans"}})
    memory = answer.memory
    assert memory["budget"]["entries_per_head"] == 256
    assert memory["positions"]["kept"] < memory["tokens_in"] / 2
    assert answer.usage.memory["held"] == memory["positions"]["kept"]
    assert sum(s["end"] - s["begin"] for s in memory["spans"]) == memory["tokens_in"]


def test_a_required_tool_is_called(client):
    answer = ask(client, [{"role": "user", "content": "How warm is it in Oslo, in C?"}],
                 tools=[WEATHER], tool_choice="required", max_tokens=100)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    call = choice.message.tool_calls[0]
    assert call.function.name == "get_weather" and call.id
    arguments = json.loads(call.function.arguments)
    assert set(arguments) == {"city", "unit"}

    chunks = list(ask(client, [{"role": "user", "content": "How warm is it in Oslo, in C?"}],
                      tools=[WEATHER], max_tokens=100, stream=True,
                      tool_choice={"type": "function", "function": {"name": "get_weather"}}))
    calls = [d for c in chunks for d in (c.choices[0].delta.tool_calls or [])]
    assert [d.function.name for d in calls if d.function.name] == ["get_weather"]
    assert json.loads("".join(d.function.arguments for d in calls)) == arguments

    # And the conversation goes on from its result.
    messages = [{"role": "user", "content": "How warm is it in Oslo, in C?"},
                choice.message.model_dump(exclude_none=True),
                {"role": "tool", "tool_call_id": call.id, "content": "It is 4 degrees."}]
    assert ask(client, messages, tools=[WEATHER], tool_choice="none").choices[0].message.content


def test_an_answer_fits_a_schema(client):
    schema = {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}},
              "required": ["city", "n"], "additionalProperties": False}
    answer = ask(client, max_tokens=200, response_format={
        "type": "json_schema", "json_schema": {"name": "city", "schema": schema, "strict": True}})
    assert set(json.loads(answer.choices[0].message.content)) == {"city", "n"}
    answer = ask(client, max_tokens=300, response_format={"type": "json_object"})
    if answer.choices[0].finish_reason == "stop":
        json.loads(answer.choices[0].message.content)


def test_log_probabilities(client):
    answer = ask(client, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert "".join(t.token for t in tokens) == answer.choices[0].message.content
    for t in tokens:
        assert t.logprob <= 0 and len(t.top_logprobs) == 3
        assert t.top_logprobs[0].token == t.token  # at temperature 0


def test_several_answers(client):
    answer = ask(client, [{"role": "user", "content": "Make up a name."}], n=3, temperature=1.5,
                 seed=7)
    texts = [c.message.content for c in answer.choices]
    assert len(texts) == 3 and len(set(texts)) > 1
    again = ask(client, [{"role": "user", "content": "Make up a name."}], n=3, temperature=1.5,
                seed=7)
    assert [c.message.content for c in again.choices] == texts


def test_stops_and_bias(client):
    plain = ask(client).choices[0].message.content
    assert ask(client, stop=["Paris"]).choices[0].message.content == plain[:plain.index("Paris")]
    token = client.post("/../tokenize", body={"content": " Paris"}, cast_to=dict)["tokens"][0]
    assert "Paris" not in ask(client, logit_bias={str(token): -100}).choices[0].message.content


@pytest.mark.parametrize("change", [
    {"temperature": -1}, {"temperature": float("inf")}, {"top_p": 2}, {"n": 0}, {"n": 100000},
    {"max_tokens": -5}, {"stop": ["x"] * 1000}, {"logit_bias": {"zebra": 1}},
    {"messages": []}, {"messages": [{"role": "wizard", "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    {"tools": [{"type": "function"}]}, {"tool_choice": "perhaps"},
    {"response_format": {"type": "xml"}}, {"top_logprobs": 5},
    {"extra_body": {"memory": {"budget": "lots"}}}, {"extra_body": {"memory": {"policy": "magic"}}},
    {"extra_body": {"memory": {"report": 5}}}, {"extra_body": {"memory": {"keep": ["not there"]}}},
])
def test_what_is_wrong_is_said(client, change):
    with pytest.raises((openai.BadRequestError, openai.NotFoundError, ValueError)) as failure:
        ask(client, **({"messages": FRANCE} | change))
    if isinstance(failure.value, openai.APIStatusError):
        assert failure.value.body["message"]


def test_too_long_is_said(client):
    with pytest.raises(openai.BadRequestError) as failure:
        ask(client, [{"role": "user", "content": "word " * 20000}])
    assert failure.value.code == "context_length_exceeded"


def test_completions_and_embeddings(client):
    answer = client.completions.create(model="any", prompt="The capital of France is", max_tokens=3,
                                       temperature=0, logprobs=1)
    assert "Paris" in answer.choices[0].text and len(answer.choices[0].logprobs.tokens) == 3
    vectors = client.embeddings.create(model="any", input=["a cat", "a kitten", "tax law"]).data
    dot = lambda a, b: sum(x * y for x, y in zip(vectors[a].embedding, vectors[b].embedding))
    assert abs(dot(0, 0) - 1) < 1e-5 and dot(0, 1) > dot(0, 2)


def test_responses(client):
    first = client.responses.create(model="any", input="What is the capital of France?",
                                    temperature=0, max_output_tokens=32)
    assert "Paris" in first.output_text
    second = client.responses.create(model="any", input="And of Spain?", temperature=0,
                                     previous_response_id=first.id, max_output_tokens=32)
    assert "Madrid" in second.output_text
    assert second.usage.input_tokens_details.cached_tokens > 20
    for answer in (first, second):
        assert client.responses.retrieve(answer.id).output_text == answer.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve("resp_none")
    with client.responses.stream(model="any", input="What is the capital of France?",
                                 temperature=0, max_output_tokens=32) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text == first.output_text
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"


def test_models(client):
    [model] = client.models.list().data
    assert client.models.retrieve(model.id).id == model.id
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("another")
