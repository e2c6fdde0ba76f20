"""docs/openapi.json against the table of routes, and against what the server takes and answers."""

import copy
import http.client
import json
import pathlib
import re
import threading
import urllib.parse
import uuid

import jsonschema
import openapi_spec_validator
import pytest
import referencing
import referencing.jsonschema

ROOT = pathlib.Path(__file__).resolve().parents[2]
DOC = json.loads((ROOT / "docs/openapi.json").read_text())
API = ROOT / "src/server/api"


def fault(why):
    """What the server does not do yet as the file, or the API that it speaks, says. Once it does, the
    test fails: take the mark away then."""
    return pytest.mark.xfail(reason=why, strict=True)


# The same of some of a test's cases, by their names.
FAULTS = {}


def cases(values, name=str):
    """Parameters of a test; those of FAULTS are expected to fail."""
    out = []
    for value in values:
        marks = [fault(why) for label, why in FAULTS.items() if re.fullmatch(label, name(value), re.S)]
        out.append(pytest.param(value, id=name(value), marks=marks))
    return out


# ---- the file itself ---------------------------------------------------------------------------


def strict(value):
    """A copy in which an object has no properties but those that are listed."""
    if isinstance(value, list):
        return [strict(v) for v in value]
    if not isinstance(value, dict):
        return value
    out = {k: strict(v) for k, v in value.items()}
    if isinstance(value.get("properties"), dict) and value.get("type") == "object":
        out.setdefault("additionalProperties", False)
    return out


def resource(doc):
    return referencing.Resource(contents=doc, specification=referencing.jsonschema.DRAFT202012)


REGISTRY = referencing.Registry().with_resources([("urn:strict", resource(strict(DOC))), ("urn:doc", resource(DOC))])


def schema_at(*pointer, doc="urn:strict"):
    at = "/".join(str(p).replace("~", "~0").replace("/", "~1") for p in pointer)
    return jsonschema.Draft202012Validator({"$ref": f"{doc}#/{at}"}, registry=REGISTRY)


def resolved(value):
    while "$ref" in value:
        at = DOC
        for step in value["$ref"].removeprefix("#/").split("/"):
            at = at[step]
        value = at
    return value


def operations():
    for path, item in DOC["paths"].items():
        for method, operation in item.items():
            yield method.upper(), path, operation


def takes_json(operation):
    return "application/json" in operation.get("requestBody", {}).get("content", {})


def body_schema(operation):
    return operation["requestBody"]["content"]["application/json"]["schema"]


def answers_json(operation):
    return "application/json" in operation["responses"]["200"].get("content", {})


def test_the_file_is_openapi():
    openapi_spec_validator.validate(DOC)
    ids = [operation["operationId"] for _, _, operation in operations()]
    assert len(ids) == len(set(ids))


def test_everything_in_it_is_used():
    text = json.dumps(DOC)
    for kind, parts in DOC["components"].items():
        for name in parts if kind != "securitySchemes" else []:
            assert f'"#/components/{kind}/{name}"' in text, name


def test_routes_are_those_of_the_table():
    table = re.findall(
        r'Route\{"(\w+)", "([^"]+)", (\w+),\s*"([^"]+)"(?:,\s*(k\w+))?(?:,\s*(true|false))?(?:,\s*(true))?\}',
        (API / "routes.cpp").read_text(),
    )
    assert len(table) == (API / "routes.cpp").read_text().count("Route{")
    there = {(m, p): (s, style or "kOpenAi", is_open == "true") for m, p, _, s, style, is_open, _ in table}
    told = {}
    for method, path, operation in operations():
        responses = json.dumps(operation["responses"])
        style = next((s for s in ("Anthropic", "Ollama") if f"responses/{s}" in responses), "OpenAi")
        told[method, path] = (operation["summary"], f"k{style}", operation.get("security") == [])
    assert told == there
    for method, path, *_, is_quick in table:  # others wait for a worker, of which there may be none
        assert is_quick or "503" in DOC["paths"][path][method.lower()]["responses"], path


def fields_of(schema, found):
    """Names of all fields of a request, and whether any by that name is more than ignored."""
    schema = resolved(schema)
    for name, field in schema.get("properties", {}).items():
        is_read = not resolved(field).get("description", "").startswith("Ignored")
        found[name] = found.get(name, False) or is_read
        fields_of(field, found)
    for part in schema.get("allOf", []) + schema.get("anyOf", []):
        fields_of(part, found)
    if isinstance(schema.get("items"), dict):
        fields_of(schema["items"], found)
    return found


def test_fields_are_those_that_handlers_read():
    source = "\n".join(file.read_text() for file in sorted(API.glob("*.cpp")))
    kinds = "text|boolean|integer|number|texts|object|list|find|need|has"
    read = set(re.findall(rf'\b(?:{kinds})\(\s*"([a-z_]+)"', source))
    read |= set(re.findall(r'\bread_content\(\w+, "([a-z_]+)"', source))
    read |= set(re.findall(r'\bread_format\([^;"]*"([a-z_]+)"', source))
    for names in re.findall(r"for \(const char\* \w+\s*:\s*\{([^}]*)\}", source):
        read |= set(re.findall(r'"([a-z_]+)"', names))
    told = {}
    for _, _, operation in operations():
        if takes_json(operation):
            fields_of(body_schema(operation), told)
    assert read <= told.keys(), "handlers read what the file does not list"
    assert {name for name in told if told[name]} <= read, "the file lists what no handler reads"


# ---- asking ------------------------------------------------------------------------------------


class Answer:
    def __init__(self, response):
        self.status = response.status
        self.headers = {k.lower(): v for k, v in response.getheaders()}
        self.body = response.read()
        self.media = self.headers.get("content-type", "").split(";")[0]

    def json(self):
        return json.loads(self.body)


def ask(url, method, path, body=None, headers=None):
    host = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(host.hostname, host.port, timeout=120)
    try:
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
        connection.request(method, path, body, headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def check(answer, method, path, status=200):
    """Is it as the file says, and of this status?"""
    assert answer.status == status, answer.body[:500]
    responses = DOC["paths"][path][method.lower()]["responses"]
    assert str(status) in responses, f"{status} is not in the file"
    pointer = ["paths", path, method.lower(), "responses", str(status)]
    response = responses[str(status)]
    if "$ref" in response:
        pointer = response["$ref"].removeprefix("#/").split("/")
        response = resolved(response)
    assert answer.media in response["content"]
    if answer.media != "application/json":
        return answer.body
    schema_at(*pointer, "content", answer.media, "schema").validate(answer.json())
    for name in response.get("headers", {}):
        assert name.lower() in answer.headers
    return answer.json()


def check_stream(answer, method, path):
    """The same of a stream; its events."""
    assert answer.status == 200, answer.body[:500]
    content = DOC["paths"][path][method.lower()]["responses"]["200"]["content"]
    assert answer.media in content and answer.media != "application/json"
    schema = schema_at("paths", path, method.lower(), "responses", "200", "content", answer.media, "x-event")
    text = answer.body.decode()
    events = []
    if answer.media == "application/x-ndjson":
        assert text.endswith("\n")
        events = [json.loads(line) for line in text.splitlines()]
    else:
        assert text.endswith("\n\n")
        blocks = text.removesuffix("\n\n").split("\n\n")
        if "chunk" in text or "text_completion" in text:
            assert blocks.pop() == "data: [DONE]"
        for block in blocks:
            lines = block.split("\n")
            named = lines.pop(0).removeprefix("event: ") if lines[0].startswith("event: ") else None
            assert len(lines) == 1 and lines[0].startswith("data: ")
            events.append(json.loads(lines[0].removeprefix("data: ")))
            assert named == (events[-1]["type"] if named else None)
    for event in events:
        schema.validate(event)
    return events


HI = [{"role": "user", "content": "Hi"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": CITY}}
FLAT_TOOL = {"type": "function", "name": "get_weather", "description": "The weather.", "parameters": CITY}
CLAUDE_TOOL = {"name": "get_weather", "description": "The weather.", "input_schema": CITY}
OSLO = "How warm is it in Oslo?"
NOTE = "data:text/plain;base64,VGhlIHNreSBpcyBncmVlbi4="
CHAT, TEXT, RESPONSES = "/v1/chat/completions", "/v1/completions", "/v1/responses"
EMBED, CLAUDE, COUNT = "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens"
OCHAT, OGEN, OEMBED, OEMBED1 = "/api/chat", "/api/generate", "/api/embed", "/api/embeddings"

# The least that each route takes.
LEAST = {
    CHAT: {"messages": HI, "max_tokens": 1},
    TEXT: {"prompt": "Once upon", "max_tokens": 1},
    RESPONSES: {"input": "Hi", "max_output_tokens": 1},
    EMBED: {"input": "A cat"},
    CLAUDE: {"messages": HI, "max_tokens": 1},
    COUNT: {"messages": HI},
    OCHAT: {"messages": HI, "stream": False, "options": {"num_predict": 1}},
    OGEN: {"prompt": "Hi", "stream": False, "options": {"num_predict": 1}},
    OEMBED: {"input": "A cat"},
    OEMBED1: {"prompt": "A cat"},
    "/api/show": {},
    "/tokenize": {"content": "Hi"},
    "/detokenize": {"tokens": [1]},
    "/v1/sessions/{id}": {"title": "Greeting"},
}

# The model's own ends are its first tokens.
NO_END = {"0": -100, "1": -100, "2": -100}

SPANS = {"memory": {"budget": 32, "policy": "window", "report": "spans"}}
CALLED = [
    {"role": "user", "content": OSLO},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Oslo"}'}}
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "4 degrees"},
]

# More of what they take: path, what it changes, and whether it can be streamed.
FORMS = [
    (CHAT, {}),
    (CHAT, {"max_tokens": 5, "n": 2, "logprobs": True, "top_logprobs": 2, "stream_options": {"include_usage": True}}),
    (CHAT, SPANS),
    (CHAT, {"memory": {"budget": "25%", "keep": "Hi", "entries": "q8_0", "residue": "merge"}}),
    (CHAT, {"tools": [TOOL], "tool_choice": "required", "max_tokens": 60, "messages": CALLED[:1]}),
    (
        CHAT,
        {
            "tools": [TOOL],
            "messages": CALLED,
            "tool_choice": {"type": "function", "function": {"name": "get_weather"}},
            "max_tokens": 60,
        },
    ),
    (
        CHAT,
        {
            "response_format": {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY}},
            "max_tokens": 20,
        },
    ),
    (
        CHAT,
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "file", "file": {"filename": "a.txt", "file_data": NOTE}},
                        {"type": "text", "text": "Hi"},
                    ],
                },
            ],
            "stop": "x",
            "logit_bias": {"5": 1},
        },
    ),
    (CHAT, {k: None for k in ("temperature", "stop", "tools", "memory", "n", "stream_options", "response_format")}),
    (TEXT, {}),
    (TEXT, {"logprobs": 2, "n": 2, "echo": True, "max_tokens": 3, "stream_options": {"include_usage": True}}),
    (TEXT, {"prompt": [5, 6, 7], **SPANS}),
    (TEXT, {"prompt": [[5, 6, 7]]}),
    (TEXT, {"prompt": ["Once"], "response_format": {"type": "json_object"}}),
    (RESPONSES, {}),
    (RESPONSES, SPANS),
    (
        RESPONSES,
        {
            "instructions": "Be brief.",
            "temperature": 0.5,
            "top_p": 0.9,
            "metadata": {"a": "b"},
            "max_output_tokens": 4,
        },
    ),
    (
        RESPONSES,
        {
            "input": OSLO,
            "tools": [FLAT_TOOL, {"type": "web_search"}],
            "tool_choice": "required",
            "max_output_tokens": 60,
        },
    ),
    (
        RESPONSES,
        {
            "input": [
                {
                    "role": "user",
                    "content": [{"type": "input_file", "file_data": NOTE}, {"type": "input_text", "text": OSLO}],
                },
                {"type": "reasoning", "summary": []},
                {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
                {"type": "function_call_output", "call_id": "c", "output": "4 degrees"},
            ]
        },
    ),
    (
        RESPONSES,
        {"text": {"format": {"type": "json_schema", "name": "place", "schema": CITY}}, "max_output_tokens": 20},
    ),
    (EMBED, {}),
    (EMBED, {"input": ["A cat", "A dog"], "encoding_format": "base64"}),
    (EMBED, {"input": [[5, 6], "A cat"]}),
    (EMBED, {"input": [5, 6]}),
    (CLAUDE, {}),
    (CLAUDE, {**SPANS, "stop_sequences": ["x"]}),
    (CLAUDE, {"system": [{"type": "text", "text": "Be brief."}], "thinking": {"type": "disabled"}}),
    (
        CLAUDE,
        {
            "messages": [{"role": "user", "content": OSLO}],
            "tools": [CLAUDE_TOOL],
            "tool_choice": {"type": "tool", "name": "get_weather"},
            "max_tokens": 60,
        },
    ),
    (
        CLAUDE,
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "document",
                            "title": "a",
                            "source": {"type": "text", "media_type": "text/plain", "data": "The sky is green."},
                        },
                        {"type": "text", "text": OSLO},
                    ],
                },
                {
                    "role": "assistant",
                    "content": [
                        {"type": "thinking", "thinking": "Hm.", "signature": ""},
                        {"type": "tool_use", "id": "t", "name": "get_weather", "input": {"city": "Oslo"}},
                    ],
                },
                {
                    "role": "user",
                    "content": [
                        {
                            "type": "tool_result",
                            "tool_use_id": "t",
                            "content": [{"type": "text", "text": "4 degrees"}],
                        }
                    ],
                },
            ]
        },
    ),
    (CLAUDE, {"output_config": {"format": {"type": "json_schema", "schema": CITY}}, "max_tokens": 20}),
    (COUNT, {}),
    (COUNT, {"system": "Be brief.", "tools": [CLAUDE_TOOL]}),
    (OCHAT, {}),
    (OCHAT, {**SPANS, "think": True}),
    (OCHAT, {"format": CITY, "options": {"num_predict": 20}}),
    (
        OCHAT,
        {
            "messages": [{"role": "user", "content": "Call get_weather of Oslo."}],
            "tools": [TOOL],
            "options": {"num_predict": 60, "temperature": 0},
        },
    ),
    (
        OCHAT,
        {
            "messages": [
                {"role": "user", "content": OSLO},
                {
                    "role": "assistant",
                    "content": "",
                    "tool_calls": [{"function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}],
                },
                {"role": "tool", "tool_name": "get_weather", "content": "4 degrees"},
            ]
        },
    ),
    (OGEN, {}),
    (OGEN, {"prompt": ""}),
    (OGEN, {"raw": True, "format": "json", "suffix": "", "context": []}),
    (OGEN, {"system": "Be brief.", **SPANS}),
    (OEMBED, {"input": ["A cat", "A dog", [5, 6]]}),
    (OEMBED1, {}),
    ("/api/show", {}),
    ("/tokenize", {}),
    ("/tokenize", {"content": "h\u00e9 \U0001f600", "with_pieces": True, "add_special": True}),
    ("/detokenize", {"tokens": [0, 5, 49]}),
]


def streams(path):
    content = DOC["paths"][path]["post"]["responses"]["200"]["content"]
    return any("x-event" in c for c in content.values())


def form_name(form):
    return f"{form[0]} {FORMS.index(form)}"


# ---- answers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", cases(FORMS, form_name))
def test_answers_are_as_the_file_says(url, form):
    path, change = form
    body = LEAST[path] | change
    schema_at("paths", path, "post", "requestBody", "content", "application/json", "schema", doc="urn:doc").validate(
        body
    )
    check(ask(url, "POST", path, body), "POST", path)


@pytest.mark.parametrize("form", cases([f for f in FORMS if streams(f[0]) and f[1].get("prompt") != ""], form_name))
def test_streams_are_as_the_file_says(url, form):
    path, change = form
    events = check_stream(ask(url, "POST", path, LEAST[path] | change | {"stream": True}), "POST", path)
    last = events[-1]
    if path in (CHAT, TEXT):
        n = change.get("n") or 1
        finished = [c["index"] for e in events for c in e["choices"] if c["finish_reason"]]
        assert sorted(finished) == list(range(n))
        assert ("usage" in last and last["choices"] == []) == bool(change.get("stream_options"))
    elif path == RESPONSES:
        assert events[0]["type"] == "response.created"
        assert last["type"] in ("response.completed", "response.incomplete")
        assert last["response"]["output"] == [e["item"] for e in events if e["type"] == "response.output_item.done"]
    elif path == CLAUDE:
        assert [events[0]["type"], events[-2]["type"], last["type"]] == [
            "message_start",
            "message_delta",
            "message_stop",
        ]
        open_ = [e["index"] for e in events if e["type"] == "content_block_start"]
        assert open_ == [e["index"] for e in events if e["type"] == "content_block_stop"] == list(range(len(open_)))
    else:
        assert [e["done"] for e in events] == [False] * (len(events) - 1) + [True]
        assert "eval_count" in last and "memory" in last


def test_events_of_a_response_are_numbered(url):
    events = check_stream(ask(url, "POST", RESPONSES, LEAST[RESPONSES] | {"stream": True}), "POST", RESPONSES)
    assert [e["sequence_number"] for e in events] == list(range(len(events)))


GETS = ["/health", "/props", "/v1/models", "/api/tags", "/api/ps", "/api/version", "/metrics", "/", "/v1/sessions"]


@pytest.mark.parametrize("path", GETS)
def test_what_is_got_is_as_the_file_says(url, path):
    body = check(ask(url, "GET", path), "GET", path)
    head = ask(url, "HEAD", path)
    assert head.status == 200 and head.body == b""
    if path == "/v1/models":
        [model] = body["data"]
        name = urllib.parse.quote(model["id"], safe="")
        assert check(ask(url, "GET", f"/v1/models/{name}"), "GET", "/v1/models/{id}") == model


@pytest.mark.parametrize(
    "path,template",
    [
        ("/main.js", "/{file}"),
        ("/style.css", "/{file}"),
        ("/components/thread.js", "/components/{file}"),
        ("/vendor/htm/standalone.module.js", "/vendor/{name}/{file}"),
    ],
)
def test_files_of_the_page(url, path, template):
    assert check(ask(url, "GET", path), "GET", template)
    check(ask(url, "GET", path[:-1]), "GET", template, 404)


@pytest.fixture
def conversation(url):
    name = f"test/{uuid.uuid4()}"
    body = LEAST[CHAT] | {"messages": [{"role": "user", "content": name}]}
    first = check(ask(url, "POST", CHAT, body, {"X-Session-Id": name}), "POST", CHAT)
    quoted = urllib.parse.quote(name, safe="")
    yield quoted, first
    ask(url, "DELETE", f"/v1/sessions/{quoted}")


def test_conversations_are_as_the_file_says(url, conversation):
    name, first = conversation
    one = "/v1/sessions/{id}"
    there = check(ask(url, "GET", f"/v1/sessions/{name}"), "GET", one)
    assert [m["role"] for m in there["messages"]] == ["user", "assistant"]
    listed = check(ask(url, "GET", "/v1/sessions"), "GET", "/v1/sessions")["data"]
    assert there["id"] in [s["id"] for s in listed]
    changed = check(ask(url, "PATCH", f"/v1/sessions/{name}", {"title": "A title"}), "PATCH", one)
    assert changed["title"] == "A title"
    copies = [check(ask(url, "POST", f"/v1/sessions/{name}/fork"), "POST", f"{one}/fork")]
    file = check(ask(url, "GET", f"/v1/sessions/{name}/export"), "GET", f"{one}/export")
    copies.append(check(ask(url, "POST", "/v1/sessions/import", file), "POST", "/v1/sessions/import"))
    for copied in copies:
        assert copied["title"] == "A title" and copied["tokens"] == there["tokens"]
        assert check(ask(url, "GET", f"/v1/sessions/{copied['id']}"), "GET", one)["messages"] == there["messages"]
    for of in (name, first["id"]):
        check(ask(url, "GET", f"/v1/memory/{of}"), "GET", "/v1/memory/{id}")
    for id_ in (name, *(c["id"] for c in copies)):
        check(ask(url, "DELETE", f"/v1/sessions/{id_}"), "DELETE", one)
        check(ask(url, "GET", f"/v1/sessions/{id_}"), "GET", one, 404)
    for method, path in (
        ("PATCH", one),
        ("DELETE", one),
        ("POST", f"{one}/fork"),
        ("GET", f"{one}/export"),
        ("GET", "/v1/memory/{id}"),
    ):
        check(
            ask(url, method, path.replace("{id}", "nobody"), {"title": "x"} if method == "PATCH" else None),
            method,
            path,
            404,
        )
    check(ask(url, "POST", "/v1/sessions/import", file[:-1]), "POST", "/v1/sessions/import", 400)


def test_a_response_is_gone_on_from(url):
    first = check(ask(url, "POST", RESPONSES, LEAST[RESPONSES] | {"input": uuid.uuid4().hex}), "POST", RESPONSES)
    again = LEAST[RESPONSES] | {"previous_response_id": first["id"], "input": [{"role": "user", "content": "Bye"}]}
    second = check(ask(url, "POST", RESPONSES, again), "POST", RESPONSES)
    assert second["previous_response_id"] == first["id"]
    check(ask(url, "GET", f"/v1/memory/{second['id']}"), "GET", "/v1/memory/{id}")
    check(ask(url, "GET", f"/v1/memory/{first['id']}"), "GET", "/v1/memory/{id}", 404)
    error = check(ask(url, "POST", RESPONSES, again | {"previous_response_id": "resp_none"}), "POST", RESPONSES, 400)
    assert error["error"]["code"] == "previous_response_not_found"


def test_no_other_response_is_gone_on_from(url):
    body = {"input": uuid.uuid4().hex, "max_output_tokens": 1, "temperature": 0}
    other, first = [check(ask(url, "POST", RESPONSES, body), "POST", RESPONSES)["id"] for _ in range(2)]
    check(ask(url, "POST", RESPONSES, body | {"previous_response_id": first, "input": "Bye"}), "POST", RESPONSES)
    assert len(ask(url, "GET", f"/v1/sessions/{other}").json()["messages"]) == 2
    check(ask(url, "GET", f"/v1/memory/{other}"), "GET", "/v1/memory/{id}")


PDF = b"""%PDF-1.1
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 99 99]/Contents 4 0 R/Resources<</Font<</F 5 0 R>>>>>>endobj
4 0 obj<</Length 28>>stream
BT /F 9 Tf 9 9 Td (Hi) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R>>
"""


def test_the_text_of_a_pdf(url):
    path = "/v1/documents/text"
    if not ask(url, "GET", "/props").json()["pdf"]:
        check(ask(url, "POST", path, PDF), "POST", path, 501)
        return
    assert "Hi" in check(ask(url, "POST", path, PDF), "POST", path)["text"]
    check(ask(url, "POST", path, b"Hi"), "POST", path, 400)


def test_every_json_route_was_asked():
    asked = (
        {("POST", p) for p, _ in FORMS}
        | {("GET", p) for p in GETS}
        | {("GET", "/v1/models/{id}"), ("GET", "/v1/responses/{id}"), ("POST", "/v1/documents/text")}
    )
    asked |= {(m, p) for m, p, _ in operations() if p.startswith(("/v1/sessions", "/v1/memory"))}
    assert {(m, p) for m, p, o in operations() if answers_json(o)} <= asked


def test_limits_are_those_of_the_server(url):
    there = ask(url, "GET", "/props").json()["limits"]
    schemas = DOC["components"]["schemas"]
    assert set(there) == set(schemas["Props"]["properties"]["limits"]["properties"])
    chat = schemas["ChatRequest"]["allOf"][1]["properties"]
    sampling = schemas["Sampling"]["properties"]
    assert f"({there['max_tokens']:,})" in sampling["max_tokens"]["description"]
    assert there["choices"] == chat["n"]["maximum"]
    assert there["messages"] == chat["messages"]["maxItems"]
    assert there["tools"] == chat["tools"]["maxItems"]
    assert there["stops"] == sampling["stop"]["anyOf"][1]["maxItems"]
    assert there["inputs"] == schemas["EmbeddingsInput"]["anyOf"][2]["maxItems"]


# ---- requests ----------------------------------------------------------------------------------


def walk(schema, path=()):
    """Every field of a request: where it is, and its schema. Not those of alternatives of objects."""
    schema = resolved(schema)
    for part in schema.get("allOf", []):
        yield from walk(part, path)
    for name, field in schema.get("properties", {}).items():
        yield (*path, name), field
        yield from walk(field, (*path, name))
    alternatives = [resolved(s) for s in schema.get("anyOf", [])]
    alternatives = [s for s in alternatives if s.get("type") != "null"]
    if len(alternatives) == 1:
        yield from walk(alternatives[0], path)
    if isinstance(schema.get("additionalProperties"), dict):
        yield (*path, "5"), schema["additionalProperties"]
    if isinstance(schema.get("items"), dict) and schema["items"]:
        items = resolved(schema["items"])
        if "properties" in items:
            yield from walk(items, (*path, 0))


def numbers(schema):
    """Schemas of numbers with a range, as they are or in a list."""
    schema = resolved(schema)
    if {"minimum", "maximum", "exclusiveMinimum"} & schema.keys():
        yield schema, lambda x: x
    for part in schema.get("anyOf", []):
        yield from numbers(part)
    if isinstance(schema.get("items"), dict):
        for inner, wrap in numbers(schema["items"]):
            yield inner, lambda x, wrap=wrap: [wrap(x)]


FORMAT = {"type": "json_schema", "json_schema": {"name": "place", "schema": CITY}}
# What must be there for a field to be in it.
AROUND = {
    "top_logprobs": {"logprobs": True},
    "stream_options": {"stream_options": {}},
    "response_format": {"response_format": FORMAT},
    "text": {"text": {"format": {"type": "json_schema", "schema": CITY}}},
    "memory": {"memory": {"budget": 64}},
    "thinking": {"thinking": {"type": "enabled"}},
    "output_config": {"output_config": {"format": {"type": "json_schema", "schema": CITY}}},
    "logit_bias": {"logit_bias": {}},
    "tool_choice": {"tool_choice": {}},
}
TOOLS = {CHAT: TOOL, RESPONSES: FLAT_TOOL, CLAUDE: CLAUDE_TOOL, COUNT: CLAUDE_TOOL, OCHAT: TOOL}
OWN_CALL = {"id": "c", "function": {"name": "get_weather", "arguments": "{}"}}


def with_field(route, path, value, least=None):
    """A request that is right but for this."""
    body = copy.deepcopy((least or LEAST[route]) | AROUND.get(path[0], {}))
    if path[0] in ("tools", "tool_choice") and route in TOOLS:
        body["tools"] = [copy.deepcopy(TOOLS[route])]
        if path[0] == "tool_choice" and len(path) > 1:
            body["tool_choice"] = {"type": "tool", "name": "get_weather"}
    if path[:1] == ("messages",) and "tool_calls" in path[:-1]:
        call = copy.deepcopy(OWN_CALL)
        if route == OCHAT:
            call["function"]["arguments"] = {}
        body["messages"] = [{"role": "assistant", "content": "", "tool_calls": [call]}, *body["messages"]]
    if path[0] == "messages" and path[-1] == "name" and len(path) == 3:
        body["messages"][0]["role"] = "tool"
    at = body
    for step in path[:-1]:
        if isinstance(at, dict):
            at = at.setdefault(step, {})
        else:
            at = at[step]
    if value is MISSING:
        del at[path[-1]]
    else:
        at[path[-1]] = value
    return body


MISSING = object()


def fields():
    for method, route, operation in operations():
        if takes_json(operation) and route in LEAST:
            seen = set()
            for path, schema in walk(body_schema(operation)):
                if path not in seen and not resolved(schema).get("description", "").startswith("Ignored"):
                    seen.add(path)
                    yield method, route, path, schema


def field_name(field):
    return f"{field[1]} {'.'.join(str(p) for p in field[2])}"


def send(url, method, route, body, conversation_name="nobody"):
    return ask(url, method, route.replace("{id}", conversation_name), body)


def refused(url, method, route, body, name):
    answer = send(url, method, route, body)
    check(answer, method, route, 400)
    assert name in answer.body.decode(), f"{answer.body} does not name {name}"


def named_as(path):
    """What an error calls it."""
    return "tool" if path[0] == "tools" else path[-2] if path[-1] == "5" else path[-1]


FIELDS = list(fields())
WITH_TYPE = [f for f in FIELDS if resolved(f[3]).keys() - {"description"}]
WITH_RANGE = [f for f in FIELDS if any(True for _ in numbers(f[3]))]


@pytest.mark.parametrize("field", cases(WITH_RANGE, lambda f: f"beyond {field_name(f)}"))
def test_numbers_beyond_their_range_are_refused(url, field):
    method, route, path, schema = field
    for number, wrap in numbers(schema):
        is_whole = "integer" in number["type"]
        step = 1 if is_whole else 0.01
        beyond = [number[k] + sign * step for k, sign in (("minimum", -1), ("maximum", 1)) if k in number]
        beyond += [number["exclusiveMinimum"]] if "exclusiveMinimum" in number else []
        beyond += [0.5] if is_whole else []
        for x in beyond:
            refused(url, method, route, with_field(route, path, wrap(x)), named_as(path))


LENGTHS = ("max_tokens", "max_completion_tokens", "max_output_tokens", "num_predict")


def within(url, path, schema):
    """The ends of its range, and what else is in it."""
    if path[-1] == "dimensions":
        return [ask(url, "GET", "/v1/models").json()["data"][0]["meta"]["n_embd"]]
    values = []
    for number, wrap in numbers(schema):
        if path[-1] == "budget":  # between what is never evicted and the context
            number = number | {"minimum": 64, "maximum": 4096}
        if path[-1] in LENGTHS:  # what is longer is cut: below
            number = number | {"maximum": 1}
        ends = [number[k] for k in ("minimum", "maximum") if k in number]
        ends += [1e-6] if "exclusiveMinimum" in number else []
        # Some clients write whole numbers so.
        ends += [float(ends[0])] if "integer" in number["type"] and abs(ends[0]) < 1e9 and wrap(0) == 0 else []
        values += [wrap(x) for x in ends]
    return values


@pytest.mark.parametrize("route", dict.fromkeys(f[1] for f in WITH_RANGE))
def test_numbers_within_their_range_are_taken(url, route):
    of_route = [f for f in WITH_RANGE if f[1] == route]
    values = [within(url, path, schema) for _, _, path, schema in of_route]
    for i in range(max(map(len, values))):  # the first of all fields together, the second, ...
        body = LEAST[route]
        for (method, _, path, _), all_ in zip(of_route, values):
            body = with_field(route, path, all_[min(i, len(all_) - 1)], body)
        check(send(url, method, route, body), method, route)


WRONG = [True, 5, 1.5, "wrong", [5], [{}], {"wrong": 5}]


@pytest.mark.parametrize("field", cases(WITH_TYPE, lambda f: f"type {field_name(f)}"))
def test_wrong_types_are_refused(url, field):
    method, route, path, schema = field
    validator = jsonschema.Draft202012Validator(absolute(schema), registry=REGISTRY)
    for wrong in WRONG:
        if not validator.is_valid(wrong):
            refused(url, method, route, with_field(route, path, wrong), named_as(path))


def absolute(value):
    """The same with references that lead to the file from anywhere."""
    if isinstance(value, list):
        return [absolute(v) for v in value]
    if not isinstance(value, dict):
        return value
    return {k: f"urn:doc{v}" if k == "$ref" else absolute(v) for k, v in value.items()}


def needed():
    for method, route, operation in operations():
        if not takes_json(operation) or route not in LEAST:
            continue
        for path, schema in [((), body_schema(operation)), *walk(body_schema(operation))]:
            whole = resolved(schema)
            items = resolved(whole["items"]) if isinstance(whole.get("items"), dict) else {}
            alternatives = [resolved(s) for s in whole.get("anyOf", []) if s.get("type") != "null"]
            parts = [whole, *(resolved(s) for s in whole.get("allOf", []))]
            parts += alternatives if len(alternatives) == 1 else []
            for part in parts:
                for name in part.get("required", []):
                    yield method, route, (*path, name), None
            for name in items.get("required", []):
                yield method, route, (*path, 0, name), None


@pytest.mark.parametrize(
    "field", cases(list({field_name(f): f for f in needed()}.values()), lambda f: f"without {field_name(f)}")
)
def test_what_is_needed_is_missed(url, field):
    method, route, path, _ = field
    refused(url, method, route, with_field(route, path, MISSING), named_as(path))


BEYOND = [
    (CHAT, {"stop": ["x"] * 17}, "stop"),
    (CHAT, {"stop": ["x" * 1025]}, "stop"),
    (CHAT, {"stop": ""}, "stop"),
    (CHAT, {"tools": [TOOL] * 129}, "tools"),
    (CHAT, {"memory": {"keep": ["Hi"] * 257}}, "keep"),
    (CHAT, {"memory": {"keep": ["not there"]}}, "keep"),
    (CHAT, {"memory": {"prefix": "x"}}, "prefix"),
    (CHAT, {"memory": {"policy": "magic", "budget": 64}}, "policy"),
    (CHAT, {"memory": {"residue": "magic", "budget": 64}}, "residue"),
    (CHAT, {"memory": {"residue": "magic"}}, "residue"),
    (CHAT, {"memory": {"budget": "lots"}}, "budget"),
    (CHAT, {"memory": {"budget": "200%"}}, "budget"),
    (CHAT, {"top_logprobs": 1}, "top_logprobs"),
    (CHAT, {"logit_bias": {"zebra": 1}}, "logit_bias"),
    (CHAT, {"logit_bias": {"1000000": 1}}, "logit_bias"),
    (CHAT, {"messages": HI * 4097}, "messages"),
    (CHAT, {"messages": []}, "messages"),
    (CHAT, {"tool_choice": "required"}, "tool_choice"),
    (CHAT, {"response_format": {"type": "json_object"}, "tools": [TOOL]}, '"param":"tools"'),
    (CHAT, {"functions": [TOOL["function"]]}, "functions"),
    (CHAT, {"function_call": "auto"}, "function_call"),
    (CHAT, {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "no_such"}}}, "tool_choice"),
    (
        CHAT,
        {
            "tools": [{"type": "function", "function": {"name": 5}}],
            "tool_choice": {"type": "function", "function": {"name": "x"}},
        },
        "tool",
    ),
    (
        CHAT,
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
        "messages[0].content[0].type",
    ),
    (CHAT, {"prompt_cache_key": "x" * 257}, "prompt_cache_key"),
    (TEXT, {"prompt": ["a", "b"]}, "prompt"),
    (TEXT, {"prompt": ""}, "prompt"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": [5, "a"]}, "prompt"),
    (TEXT, {"suffix": "x"}, "suffix"),
    (EMBED, {"input": ["a"] * 257}, "input"),
    (EMBED, {"input": ""}, "input"),
    (EMBED, {"input": []}, "input"),
    (EMBED, {"dimensions": 7}, "dimensions"),
    (OEMBED, {"input": ["a"] * 257}, "input"),
    (OEMBED, {"input": []}, "input"),
    (OEMBED1, {"prompt": ["a", "b"]}, "prompt"),
    (RESPONSES, {"input": [{"type": "magic"}]}, "input[0].type"),
    (RESPONSES, {"input": [{"type": "function_call_output", "call_id": "c", "output": 5}]}, "output"),
    (RESPONSES, {"input": []}, "input"),
    (RESPONSES, {"tool_choice": "required"}, "tool_choice"),
    (CLAUDE, {"stop_sequences": ["x"] * 17}, "stop_sequences"),
    (CLAUDE, {"stop_sequences": ["x" * 1025]}, "stop_sequences"),
    (CLAUDE, {"stop_sequences": [""]}, "stop_sequences"),
    (CLAUDE, {"tool_choice": {"type": "any"}}, "tool_choice"),
    (CLAUDE, {"output_config": {"format": {"type": "text"}}}, "output_config.format.type"),
    (
        CLAUDE,
        {"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]},
        "messages[0].content[0].type",
    ),
    (OCHAT, {"messages": [HI[0] | {"images": ["x"]}]}, "images"),
    (OGEN, {"images": ["x"]}, "images"),
    (OGEN, {"suffix": "x"}, "suffix"),
    (OGEN, {"template": "x"}, "template"),
    (OGEN, {"context": [5]}, "context"),
    ("/v1/sessions/{id}", {"title": "x" * 201}, "title"),
    ("/detokenize", {"tokens": [10**6]}, "tokens"),
]


@pytest.mark.parametrize(
    "case", cases(BEYOND, lambda c: f"beyond {c[0]} {json.dumps(c[1], separators=(',', ':'))[:90]}")
)
def test_what_else_is_beyond_is_refused(url, case):
    route, change, name = case
    refused(url, "PATCH" if route.startswith("/v1/sessions") else "POST", route, LEAST[route] | change, name)


# ---- errors ------------------------------------------------------------------------------------

POSTS = [p for p in LEAST if p.startswith(("/v1", "/api")) and "{" not in p]


@pytest.mark.parametrize("path", [p for p in POSTS if p != "/api/show"])
def test_a_body_that_is_none(url, path):
    for body in (
        b"",
        b"{",
        b"[]",
        b"5",
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b"[" * 1000,
        b'{"a":' * 300 + b"1" + b"}" * 300,
        json.dumps(LEAST[path] | dict.fromkeys(map(str, range(4097)))).encode(),
    ):
        check(ask(url, "POST", path, body), "POST", path, 400)


def test_a_body_of_too_many_values(url):
    body = json.dumps(LEAST["/tokenize"])[:-1].encode() + b', "a": [' + b"0," * (1 << 21) + b"0]}"
    check(ask(url, "POST", "/tokenize", body), "POST", "/tokenize", 400)


@pytest.mark.parametrize("path", [p for p in LEAST if "{" not in p])
def test_pages_of_other_sites_are_refused(url, path):
    check(ask(url, "POST", path, LEAST[path], {"Origin": "https://example.org"}), "POST", path, 403)


@pytest.mark.parametrize("name", ["example.org", "127.example.org"])
def test_names_that_were_made_to_lead_here_are_refused(url, name):
    check(ask(url, "GET", "/v1/models", headers={"Host": name}), "GET", "/v1/models", 403)


@pytest.mark.parametrize(
    "path,name", [("/v1/none", "OpenAiError"), ("/v1/messages/none", "AnthropicError"), ("/api/none", "OllamaError")]
)
def test_what_is_not_there(url, path, name):
    answer = ask(url, "POST", path, {})
    assert answer.status == 404
    schema_at("components", "schemas", name).validate(answer.json())
    known = {"OpenAiError": CHAT, "AnthropicError": CLAUDE, "OllamaError": OCHAT}[name]
    answer = ask(url, "DELETE", known)
    assert answer.status == 405
    schema_at("components", "schemas", name).validate(answer.json())


@pytest.mark.parametrize("path,right", [(CHAT, {"POST"}), ("/v1/sessions/x", {"GET", "PATCH", "DELETE"})])
def test_a_wrong_method_says_which_are_right(url, path, right):
    answer = ask(url, "PUT", path)
    assert answer.status == 405 and right <= set(answer.headers["allow"].split(", ")) <= right | {"HEAD"}


def test_another_model_is_not_there(url):
    error = check(ask(url, "GET", "/v1/models/another"), "GET", "/v1/models/{id}", 404)
    assert error["error"]["code"] == "model_not_found"


LONG = "word " * 9000
TOO_LONG = {
    CHAT: {"messages": [{"role": "user", "content": LONG}]},
    TEXT: {"prompt": LONG},
    RESPONSES: {"input": LONG},
    EMBED: {"input": LONG},
    CLAUDE: {"messages": [{"role": "user", "content": LONG}]},
    OCHAT: {"messages": [{"role": "user", "content": LONG}]},
    OGEN: {"prompt": LONG},
    OEMBED: {"input": LONG},
    OEMBED1: {"prompt": LONG},
}


@pytest.mark.parametrize("path", TOO_LONG)
def test_what_is_too_long_is_refused(url, path):
    error = check(ask(url, "POST", path, LEAST[path] | TOO_LONG[path]), "POST", path, 400)
    if path.startswith("/v1/") and path != CLAUDE:
        assert (error["error"]["code"], error["error"]["param"]) == ("context_length_exceeded", None)


def test_a_conversation_that_is_answered_is_busy(url):
    name = uuid.uuid4().hex
    host = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(host.hostname, host.port, timeout=120)
    body = {"prompt": name, "max_tokens": 4000, "stream": True, "logit_bias": NO_END}
    connection.request("POST", TEXT, json.dumps(body), {"X-Session-Id": name})
    response = connection.getresponse()
    try:
        assert response.readline().startswith(b"data: ")
        one = "/v1/sessions/{id}"
        check(ask(url, "DELETE", f"/v1/sessions/{name}"), "DELETE", one, 409)
        check(ask(url, "POST", f"/v1/sessions/{name}/fork"), "POST", f"{one}/fork", 409)
        check(ask(url, "GET", f"/v1/sessions/{name}/export"), "GET", f"{one}/export", 409)
        assert check(ask(url, "GET", f"/v1/sessions/{name}"), "GET", one)["busy"]
    finally:
        response.close()
        connection.close()


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """A server with a key, little room and a site that may ask."""
    from conftest import Server

    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text("sesame\n")
    server = Server(
        "--memory-limit",
        "256MiB",
        "--api-key",
        str(keys),
        "--allow-origin",
        "https://example.org",
        "--limit-body-bytes",
        "4096",
        "--limit-all-body-bytes",
        "3072",
        "--limit-import-bytes",
        "2048",
        "--limit-max-tokens",
        "50",
        "--limit-header-count",
        "20",
        "--running",
        "1",
        "--limit-queue",
        "1",
    )
    yield server.url
    assert server.stop() == 0


KEY = {"Authorization": "Bearer sesame"}
BY_STYLE = [CHAT, CLAUDE, OCHAT]


def test_keys(guarded):
    for method, path, operation in operations():
        asked = path.replace("{id}", "x").replace("{file}", "main.js").replace("{name}", "x")
        if operation.get("security") == []:
            assert ask(guarded, method, asked).status != 401
            continue
        for headers in ({}, {"Authorization": "Bearer x"}, {"x-api-key": "x"}):
            check(ask(guarded, method, asked, headers=headers), method, path, 401)
    for headers in (KEY, {"x-api-key": "sesame"}):
        check(ask(guarded, "GET", "/v1/models", headers=headers), "GET", "/v1/models")


@pytest.mark.parametrize("path", BY_STYLE)
def test_a_body_that_is_too_large(guarded, path):
    check(ask(guarded, "POST", path, LEAST[path] | {"x": "x" * 5000}, KEY), "POST", path, 413)
    check(ask(guarded, "POST", path, LEAST[path] | {"x": "x" * 3500}, KEY), "POST", path, 503)
    check(ask(guarded, "POST", path, LEAST[path] | {"x": "x" * 2500}, KEY), "POST", path)


def test_an_import_that_is_too_large(guarded):
    path = "/v1/sessions/import"
    check(ask(guarded, "POST", path, b"x" * 2500, KEY), "POST", path, 413)
    check(ask(guarded, "POST", path, b"x" * 1500, KEY), "POST", path, 400)


@pytest.mark.parametrize("path", [p for p in LEAST if any(f[1] == p and f[2][-1] in LENGTHS for f in FIELDS)])
def test_an_answer_that_is_too_long_is_cut(guarded, path):
    body = LEAST[path]
    for _, _, at, schema in [f for f in FIELDS if f[1] == path and f[2][-1] in LENGTHS]:
        body = with_field(path, at, resolved(schema)["maximum"], body)
    body = with_field(path, ("options",) * (path in (OCHAT, OGEN)) + ("logit_bias",), NO_END, body)
    answer = check(ask(guarded, "POST", path, body, KEY), "POST", path)
    usage = answer.get("usage", answer)
    assert 50 in [usage.get(k) for k in ("completion_tokens", "output_tokens", "eval_count")]


@pytest.mark.parametrize("path", BY_STYLE)
def test_too_many_headers(guarded, path):
    check(ask(guarded, "POST", path, LEAST[path], KEY | {f"x-{i}": "x" for i in range(30)}), "POST", path, 431)


@pytest.mark.parametrize("path", BY_STYLE)
def test_one_request_too_many(guarded, path):
    text = [{"role": "user", "content": "Tell me a long story."}]
    answers = []

    def one():
        body = (
            LEAST[path]
            | {"messages": text, "max_tokens": 50}
            | ({"options": {"num_predict": 50}} if path == OCHAT else {})
        )
        answers.append(ask(guarded, "POST", path, body, KEY))

    threads = [threading.Thread(target=one) for _ in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {a.status for a in answers} == {200, 503}
    for a in answers:
        check(a, "POST", path, a.status)


def test_a_site_that_may_ask_is_told_so(guarded):
    origin = {"Origin": "https://example.org"}
    told = ask(
        guarded,
        "OPTIONS",
        CHAT,
        headers=origin | {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"},
    )
    assert told.status == 204 and told.headers["access-control-allow-origin"] == "https://example.org"
    assert "authorization" in told.headers["access-control-allow-headers"].lower()


def test_a_site_that_may_ask_may_read(guarded):
    origin = {"Origin": "https://example.org"}
    for status, method, path, body, headers in (
        (200, "GET", "/v1/models", None, KEY),
        (200, "POST", CHAT, LEAST[CHAT] | {"stream": True}, KEY),
        (400, "POST", CHAT, {}, KEY),
        (401, "GET", "/v1/models", None, {}),
        (404, "GET", "/v1/none", None, KEY),
        (405, "DELETE", CHAT, None, KEY),
        (413, "POST", CHAT, {"x": "x" * 5000}, KEY),
        (431, "GET", "/v1/models", None, KEY | {f"x-{i}": "x" for i in range(30)}),
    ):
        answer = ask(guarded, method, path, body, headers | origin)
        assert (answer.status, answer.headers.get("access-control-allow-origin")) == (status, origin["Origin"])


# ---- what the file promises beside forms -------------------------------------------------------


@pytest.mark.parametrize("path", [CHAT, TEXT, RESPONSES, CLAUDE, OCHAT, OGEN])
def test_no_report_unless_it_is_wanted(url, path):
    body = LEAST[path] | {"memory": {"report": "none"}}
    answers = [check(ask(url, "POST", path, body), "POST", path)]
    answers += check_stream(ask(url, "POST", path, body | {"stream": True}), "POST", path)
    for answer in answers:
        whole = answer["response"] if path == RESPONSES and "response" in answer else answer
        assert "memory" not in whole and "memory" not in (whole.get("usage") or {})


def test_as_many_texts_as_are_allowed(url):
    answer = check(ask(url, "POST", EMBED, {"input": ["a"] * 256}), "POST", EMBED)
    assert [d["index"] for d in answer["data"]] == list(range(256))


def test_what_is_kept_may_be_in_a_text(url):
    check(ask(url, "POST", TEXT, LEAST[TEXT] | {"memory": {"keep": ["upon"]}}), "POST", TEXT)


def test_likeliest_tokens_have_names_of_their_own(url):
    def unique(pairs):
        assert len({k for k, _ in pairs}) == len(pairs), "a key is there twice"
        return dict(pairs)

    body = {
        "prompt": "Smile \U0001f600\U0001f600\U0001f600\U0001f600 ",
        "max_tokens": 8,
        "temperature": 0,
        "logprobs": 3,
    }
    json.loads(ask(url, "POST", TEXT, body).body, object_pairs_hook=unique)


@pytest.mark.parametrize("name", ["f", "get_weather", "assistant"])
def test_a_tool_of_any_name_is_told(url, name):
    # Few words to choose from: a city of any length may not fit into 60 tokens.
    city = {"type": "object", "properties": {"city": {"enum": ["Oslo", "Rome"]}}, "required": ["city"]}
    tool = {"type": "function", "function": {"name": name, "parameters": city}}
    body = LEAST[CHAT] | {"tools": [tool], "tool_choice": "required", "max_tokens": 60, "temperature": 0}
    answer = check(ask(url, "POST", CHAT, body), "POST", CHAT)
    assert answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == name


def test_no_more_memory_is_asked_for_than_a_context_takes(url):
    body = {"messages": HI, "max_tokens": 32768, "n": 2, "temperature": 0, "stop": ["!"]}
    check(ask(url, "POST", CHAT, body), "POST", CHAT)


def test_a_response_can_be_asked_for_again(url):
    one = f"{RESPONSES}/{{id}}"
    answer = check(ask(url, "POST", RESPONSES, LEAST[RESPONSES]), "POST", RESPONSES)
    again = check(ask(url, "GET", f"{RESPONSES}/{answer['id']}"), "GET", one)
    texts = [[part["text"] for item in a["output"] for part in item["content"]] for a in (answer, again)]
    assert texts[0] == texts[1]
    check(ask(url, "GET", f"{RESPONSES}/nobody"), "GET", one, 404)


def test_what_is_not_stored_is_not_listed(url):
    name = uuid.uuid4().hex
    check(ask(url, "POST", RESPONSES, {"input": name, "max_output_tokens": 1, "store": False}), "POST", RESPONSES)
    said = {"messages": [{"role": "user", "content": name}], "store": False}
    check(ask(url, "POST", CHAT, LEAST[CHAT] | said, {"X-Session-Id": name}), "POST", CHAT)
    assert name not in ask(url, "GET", "/v1/sessions").body.decode()
    check(ask(url, "GET", f"/v1/sessions/{name}"), "GET", "/v1/sessions/{id}", 404)


def test_a_model_is_loaded_by_asking_nothing(url):
    for path, nothing in ((OCHAT, {"messages": []}), (OGEN, {})):
        answer = check(ask(url, "POST", path, {"model": "any"} | nothing), "POST", path)
        assert answer["done"] and answer["done_reason"] == "load"


def test_the_item_that_was_cut_short_says_so(url):
    answer = check(ask(url, "POST", RESPONSES, LEAST[RESPONSES]), "POST", RESPONSES)
    assert answer["status"] == "incomplete" and answer["output"][-1]["status"] == "incomplete"


def test_a_name_of_a_conversation_is_unicode(url):
    assert ask(url, "POST", CHAT, LEAST[CHAT], {"X-Session-Id": b"\xff\xfe"}).status == 400


def test_anthropic_answers_fit_a_schema(url):
    body = LEAST[CLAUDE] | {"max_tokens": 60, "output_config": {"format": {"type": "json_schema", "schema": CITY}}}
    answer = check(ask(url, "POST", CLAUDE, body), "POST", CLAUDE)
    assert answer["content"][0]["text"].lstrip().startswith("{")


def told(url, body):
    """A conversation as the server remembers it."""
    answer = check(ask(url, "POST", RESPONSES, body), "POST", RESPONSES)
    return answer["id"], check(ask(url, "GET", f"/v1/sessions/{answer['id']}"), "GET", "/v1/sessions/{id}")[
        "messages"
    ]


def test_items_of_the_system_stay(url):
    said = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    first, _ = told(url, {"input": said, "max_output_tokens": 1})
    _, messages = told(url, {"input": "Bye", "previous_response_id": first, "max_output_tokens": 1})
    assert messages[0]["content"] == "Be brief."


def test_a_result_may_be_parts(url):
    output = [{"type": "input_text", "text": "4 degrees"}]
    said = [
        {"role": "user", "content": OSLO},
        {"type": "function_call", "call_id": "c", "name": "get_weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c", "output": output},
    ]
    _, messages = told(url, {"input": said, "max_output_tokens": 1})
    assert messages[2]["content"] == "4 degrees"


def test_every_choice_of_a_stream_begins_with_the_prompt(url):
    body = {"prompt": "Once upon", "max_tokens": 1, "n": 2, "echo": True, "stream": True}
    texts = ["", ""]
    for event in check_stream(ask(url, "POST", TEXT, body), "POST", TEXT):
        for c in event["choices"]:
            texts[c["index"]] += c["text"]
    assert all(t.startswith("Once upon") for t in texts)
