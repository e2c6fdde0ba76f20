"""Three servers behind nginx as deploy/nginx.conf has it, conversations in a bucket they share."""

import http.client
import json
import os
import pathlib
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
import uuid

import pytest
from test_bucket import bucket, metric, post, written  # noqa: F401  (a fixture)

NGINX = shutil.which("nginx") or ("/usr/sbin/nginx" if os.path.exists("/usr/sbin/nginx") else None)
CONF = pathlib.Path(__file__).parents[2] / "deploy" / "nginx.conf"
TEXT = " ".join(f"Shelf {i} holds {i * 7 % 50} books." for i in range(60))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


@pytest.fixture
def front(bucket, make_server, tmp_path):  # noqa: F811
    """(address, servers)"""
    if NGINX is None:
        pytest.skip("nginx is not installed")
    servers = [make_server("--sessions", bucket, "-b", "512") for _ in range(3)]
    port = free_port()
    text = CONF.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    for i, server in enumerate(servers):
        text = text.replace(f"127.0.0.1:{8081 + i}", server.url.removeprefix("http://"))
    (tmp_path / "nginx.conf").write_text(
        f"daemon off;\nmaster_process off;\npid {tmp_path}/pid;\nerror_log {tmp_path}/errors;\nevents {{}}\n"
        f"http {{ access_log {tmp_path}/log; client_body_temp_path {tmp_path}/body; proxy_temp_path {tmp_path}/proxy;\n"
        f"fastcgi_temp_path {tmp_path}/f; uwsgi_temp_path {tmp_path}/u; scgi_temp_path {tmp_path}/s;\n{text}\n}}\n")
    process = subprocess.Popen([NGINX, "-c", str(tmp_path / "nginx.conf"), "-e", str(tmp_path / "errors")])
    url = f"http://127.0.0.1:{port}"
    for _ in range(100):
        try:
            urllib.request.urlopen(f"{url}/health", timeout=5).read()
            break
        except OSError:
            time.sleep(0.1)
    yield url, servers
    process.terminate()
    process.wait()


def chat(url, headers, messages=({"role": "user", "content": "Hi"},), **more):
    """The answer to a request, as it comes."""
    data = json.dumps({"messages": messages, "max_tokens": 1, "temperature": 0} | more).encode()
    return urllib.request.urlopen(
        urllib.request.Request(f"{url}/v1/chat/completions", data, {"Content-Type": "application/json"} | headers), timeout=60)


def who_served(servers, before):
    after = [metric(s.url, "requests_total") for s in servers]
    return [i for i, (a, b) in enumerate(zip(after, before)) if a > b], after


def test_a_conversation_stays_and_moves_when_its_server_dies(front):
    url, servers = front
    session = uuid.uuid4().hex
    messages = [{"role": "user", "content": f"{TEXT} How many shelves are there?"}]
    counts = [metric(s.url, "requests_total") for s in servers]
    answer, cached = post(url, messages, session)
    assert cached == 0
    [home], counts = who_served(servers, counts)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And on shelf 3?"}]
    answer, cached = post(url, messages, session)
    assert cached > 300
    assert who_served(servers, counts)[0] == [home]
    written(servers[home].url, 2)

    servers[home].stop(kill=True)
    rest = [s for i, s in enumerate(servers) if i != home]
    counts = [metric(s.url, "requests_total") for s in rest]
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And on shelf 4?"}]
    answer, cached = post(url, messages, session)
    assert cached > 300, "it was read anew"
    assert len(who_served(rest, counts)[0]) == 1


def test_a_turn_that_is_killed_goes_on_elsewhere(front):
    url, servers = front
    session = uuid.uuid4().hex
    messages = [{"role": "user", "content": f"{TEXT} How many shelves are there?"}]
    counts = [metric(s.url, "requests_total") for s in servers]
    answer, _ = post(url, messages, session)
    [home], _ = who_served(servers, counts)
    written(servers[home].url, 1)
    messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "Tell a long story of it."}]
    with chat(url, {"X-Session-Id": session}, messages, stream=True, max_tokens=400) as stream:
        for _ in range(8):
            stream.readline()
        servers[home].stop(kill=True)
        try:
            assert b"[DONE]" not in stream.read(), "the answer was whole before its server was killed"
        except (OSError, http.client.HTTPException):
            pass  # it broke off
    # The client asks again: at most the turn that was being answered is lost.
    answer, cached = post(url, messages, session)
    assert cached > 300 and answer


def test_conversations_spread_and_only_those_of_a_dead_server_move(front):
    url, servers = front
    names = [uuid.uuid4().hex for _ in range(24)]

    def homes(of):
        where = {}
        for name in of:
            counts = [metric(s.url, "requests_total") for s in servers if s.process.poll() is None]
            alive = [i for i, s in enumerate(servers) if s.process.poll() is None]
            post(url, [{"role": "user", "content": "Say a word."}], name)
            [k], _ = who_served([servers[i] for i in alive], counts)
            where[name] = alive[k]
        return where

    before = homes(names)
    assert len(set(before.values())) == 3
    dead = before[names[0]]
    servers[dead].stop(kill=True)
    after = homes(names)
    for name in names:
        assert after[name] == before[name] or before[name] == dead


def test_a_server_that_drains_is_passed_over(front):
    url, servers = front
    failed = []

    def ask(i):
        try:
            post(url, [{"role": "user", "content": f"Name {i} things."}], f"drain-{i}")
        except (AssertionError, OSError) as e:
            failed.append(repr(e))

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
    for i, thread in enumerate(threads):
        thread.start()
        if i == 5:
            servers[0].process.terminate()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert not failed
    assert servers[0].process.wait(timeout=60) == 0


def test_the_page_may_ask(front):
    url, _ = front
    assert chat(url, {"Origin": url}).status == 200
    with pytest.raises(urllib.error.HTTPError) as e:
        chat(url, {"Origin": "https://elsewhere.example"})
    assert e.value.code == 403


@pytest.mark.parametrize("header", ["x-session-id", "x-claude-code-session-id", "session-id", "session_id", "x-session-affinity"])
def test_every_name_of_a_conversation_counts(front, header):
    url, servers = front
    used = set()
    for i in range(8):
        counts = [metric(s.url, "requests_total") for s in servers]
        chat(url, {header: f"name-{i}"}).read()
        used.update(who_served(servers, counts)[0])
    assert len(used) > 1


def test_metrics_are_not_for_clients(front):
    url, _ = front
    with pytest.raises(urllib.error.HTTPError) as e:
        urllib.request.urlopen(f"{url}/metrics", timeout=10)
    assert e.value.code == 403
