"""Conversations in a bucket that two servers share; moto plays the bucket, or PALIMPSEST_BUCKET is one.

PALIMPSEST_BUCKET=s3://BUCKET/PREFIX takes a real one (or versitygw), with AWS_... in the environment.
"""

import http.client
import json
import os
import socket
import subprocess
import sys
import time
import urllib.parse
import uuid

import pytest
from conftest import PROGRAM

TEXT = " ".join(f"Shelf {i} holds {i * 7 % 50} books." for i in range(60))


def post(url, messages, session):
    at = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=120)
    connection.request("POST", "/v1/chat/completions", json.dumps(
        {"messages": messages, "max_tokens": 12, "temperature": 0}),
        {"Content-Type": "application/json", "X-Session-Id": session})
    answer = connection.getresponse()
    body = json.loads(answer.read())
    assert answer.status == 200, body
    return body["choices"][0]["message"]["content"], body["usage"]["prompt_tokens_details"]["cached_tokens"]


def metric(url, name):
    at = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    connection.request("GET", "/metrics")
    for line in connection.getresponse().read().decode().splitlines():
        if line.startswith(f"palimpsest_{name} "):
            return int(line.split()[1])
    raise KeyError(name)


def written(url, n):
    """Waits until so many conversations are."""
    for _ in range(200):
        if metric(url, "sessions_saved_total") + metric(url, "session_conflicts_total") >= n:
            return
        time.sleep(0.05)
    raise AssertionError("nothing was written")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def start_moto(port):
    """A bucket called conversations, in memory."""
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-p", str(port)],
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(200):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("PUT", "/conversations")
            assert connection.getresponse().status == 200
            break
        except OSError:
            time.sleep(0.1)
    return process


def environment_of(port):
    return {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def bucket():
    named = os.environ.get("PALIMPSEST_BUCKET")
    if named:
        yield f"{named}/{uuid.uuid4().hex}"
        return
    pytest.importorskip("moto")
    port = free_port()
    process = start_moto(port)
    os.environ.update(environment_of(port))
    yield "s3://conversations/of/tests"
    process.kill()
    process.wait()


def test_another_server_goes_on(bucket, make_server):
    one, two = make_server("--sessions", bucket), make_server("--sessions", bucket)
    session = uuid.uuid4().hex
    messages = [{"role": "user", "content": f"{TEXT} How many shelves are there?"}]
    first, cached = post(one.url, messages, session)
    assert cached == 0
    written(one.url, 1)
    one.stop(kill=True)
    messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "And on shelf 3?"}]
    second, cached = post(two.url, messages, session)
    assert cached > 500
    written(two.url, 1)
    # A third, started later, knows it from the start.
    three = make_server("--sessions", bucket)
    messages += [{"role": "assistant", "content": second}, {"role": "user", "content": "And on shelf 4?"}]
    assert post(three.url, messages, session)[1] > 520
    # It is the third's now; the second, which has an older one in memory, goes on from it all the same.
    written(three.url, 1)
    messages += [{"role": "assistant", "content": "Many."}, {"role": "user", "content": "And on shelf 5?"}]
    assert post(two.url, messages, session)[1] > 540


def test_both_at_once_lose_no_answer(bucket, make_server):
    one, two = make_server("--sessions", bucket), make_server("--sessions", bucket)
    session = uuid.uuid4().hex
    messages = [{"role": "user", "content": f"{TEXT} How many books are on shelf 1?"}]
    for turn in range(6):
        server = (one, two)[turn % 2]
        answer, cached = post(server.url, messages, session)
        assert turn < 2 or cached > 400
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": f"On shelf {turn}?"}]
    assert metric(one.url, "session_save_failures_total") == 0
    assert metric(two.url, "session_save_failures_total") == 0


def test_what_is_wrong_is_said():
    for address in ("s3://", "s3://a/../b", "s3://a/b?c"):
        ended = subprocess.run([PROGRAM, "serve", "--check", "--port", "0", "--sessions", address],
                               capture_output=True, text=True)
        assert ended.returncode != 0 and "is no address of a bucket" in ended.stderr


def health(url):
    at = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(at.hostname, at.port, timeout=60)
    connection.request("GET", "/health")
    answer = connection.getresponse()
    assert answer.status == 200
    return json.loads(answer.read())


def test_a_store_that_goes_away_costs_no_answer_and_is_caught_up(make_server, monkeypatch):
    pytest.importorskip("moto")
    port = free_port()
    for name, value in environment_of(port).items():
        monkeypatch.setenv(name, value)
    moto = start_moto(port)
    server = make_server("--sessions", "s3://conversations/away")
    assert health(server.url) == {"status": "ok", "store": "ok", "unwritten_sessions": 0}
    moto.kill()
    moto.wait()
    talks = {}
    for _ in range(3):
        name = uuid.uuid4().hex
        messages = [{"role": "user", "content": f"{TEXT} How many shelves are there?"}]
        answer, _ = post(server.url, messages, name)
        talks[name] = messages + [{"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
    for _ in range(100):
        said = health(server.url)
        if said["store"] == "down":
            break
        time.sleep(0.1)
    assert said == {"status": "ok", "store": "down", "unwritten_sessions": 3}
    assert metric(server.url, "session_store_up") == 0
    for name, messages in talks.items():  # from its own memory
        assert post(server.url, messages, name)[1] > 500
    moto = start_moto(port)
    try:
        for _ in range(300):
            said = health(server.url)
            if said["unwritten_sessions"] == 0:
                break
            time.sleep(0.1)
        assert said == {"status": "ok", "store": "ok", "unwritten_sessions": 0}
        server.stop(kill=True)
        server = make_server("--sessions", "s3://conversations/away")
        for name, messages in talks.items():
            assert post(server.url, messages + [{"role": "assistant", "content": "Now."},
                                                {"role": "user", "content": "So?"}], name)[1] > 500
    finally:
        moto.kill()
        moto.wait()
