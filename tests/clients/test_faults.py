"""A server that is killed, or whose disk is full, in the middle of a load."""

import concurrent.futures
import os
import random
import subprocess
import time
import uuid

import pytest
from test_bucket import metric, post

KILLS = int(os.environ.get("PALIMPSEST_SERVER_KILLS", "3"))


def talk(url, session, messages, turns):
    """Turns of one conversation, as long as there is a server; the answered ones stay in `messages`."""
    for turn in range(turns):
        asked = messages + [{"role": "user", "content": f"{session} says line {len(messages)} of a long text."}]
        try:
            answer, _ = post(url, asked, session)
        except (OSError, ValueError, AssertionError):
            return
        messages[:] = asked + [{"role": "assistant", "content": answer}]


def wait_for_more(talks):
    """Until every conversation but two has an answer more: how long that takes is the machine's affair."""
    before = {name: len(said) for name, said in talks.items()}
    for _ in range(1200):
        if sum(len(said) > before[name] for name, said in talks.items()) >= len(talks) - 2:
            return
        time.sleep(0.05)


def test_killed_in_the_middle(make_server, tmp_path):
    chance = random.Random(1)
    talks = {uuid.uuid4().hex: [] for _ in range(6)}
    for _ in range(KILLS):
        server = make_server("--sessions", str(tmp_path))
        assert metric(server.url, "sessions_refused_total") == 0
        with concurrent.futures.ThreadPoolExecutor(len(talks)) as pool:
            running = [pool.submit(talk, server.url, name, said, 50) for name, said in talks.items()]
            time.sleep(1.5 + chance.random())
            server.stop(kill=True)
            concurrent.futures.wait(running)
    server = make_server("--sessions", str(tmp_path))
    assert metric(server.url, "sessions_refused_total") == 0
    long_ones = {name: said for name, said in talks.items() if len(said) >= 4}
    assert len(long_ones) > len(talks) // 2
    for name, said in long_ones.items():
        # All but the last turns, which may not have been written yet, are there.
        _, cached = post(server.url, said + [{"role": "user", "content": "Go on."}], name)
        assert cached > 20, f"{name}: {len(said)} messages"


def test_a_full_disk_costs_no_answer(make_server, tmp_path):
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(tmp_path)],
                      capture_output=True).returncode != 0:
        pytest.skip("only root can make a small disk")
    try:
        server = make_server("--sessions", str(tmp_path))
        talks = {uuid.uuid4().hex: [] for _ in range(4)}
        for name, said in talks.items():
            talk(server.url, name, said, 3)
            assert len(said) == 6
        assert metric(server.url, "session_save_failures_total") > 0
        # What is in memory goes on as ever.
        name, said = list(talks.items())[-1]
        assert post(server.url, said + [{"role": "user", "content": "Go on."}], name)[1] > 20
        server.stop()
        # And what had been written is whole.
        server = make_server("--sessions", str(tmp_path))
        assert metric(server.url, "sessions_refused_total") == 0
        server.stop()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=False)
