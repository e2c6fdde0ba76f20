"""The clock of a machine jumps while a server answers: a year ahead, then two back. libfaketime plays it."""

import glob
import os
import subprocess
import time
import uuid

import pytest
from conftest import PROGRAM, Server
from test_bucket import metric, post

FAKETIME = sorted(glob.glob("/usr/lib/*/faketime/libfaketimeMT.so.1"))


@pytest.fixture
def clock(tmp_path, monkeypatch):
    """Sets what the server takes the time to be: an offset to now."""
    if not FAKETIME:
        pytest.skip("libfaketime is not installed (Debian's package faketime)")
    file = tmp_path / "clock"

    def set_to(offset):
        file.write_text(offset)
        time.sleep(0.3)  # longer than it is remembered

    set_to("+0")
    # Time-outs are of the monotonic clock, which no clock's setting moves.
    for name, value in {"LD_PRELOAD": FAKETIME[0], "FAKETIME_TIMESTAMP_FILE": str(file), "FAKETIME_NO_CACHE": "1",
                        "FAKETIME_DONT_FAKE_MONOTONIC": "1"}.items():
        monkeypatch.setenv(name, value)
    return set_to


def test_jumps_cost_no_answer_and_no_conversation(clock, tmp_path):
    folder = tmp_path / "sessions"
    server = Server("--sessions", str(folder), "-b", "256")
    try:
        talks = {uuid.uuid4().hex: [] for _ in range(3)}

        def turn(session):
            said = talks[session]
            said.append({"role": "user", "content": f"{'Shelf by shelf. ' * 30} Say line {len(said)}."})
            start = time.monotonic()
            answer, cached = post(server.url, said, session)
            assert time.monotonic() - start < 60
            said.append({"role": "assistant", "content": answer})
            return cached

        for session in talks:
            turn(session)
        for offset in ("+1y", "-1y", "+0", "+30d"):
            clock(offset)
            for session in talks:
                assert turn(session) > 50, f"read anew after a jump of {offset}"
        assert metric(server.url, "session_save_failures_total") == 0
        # Saved under whatever time it was then, all of them go on after a restart in the past.
        assert server.stop() == 0
        clock("-2y")
        server = Server("--sessions", str(folder), "-b", "256")
        assert metric(server.url, "sessions_refused_total") == 0
        for session in talks:
            assert turn(session) > 50
    finally:
        server.stop(kill=server.process.poll() is None)


def test_the_program_says_what_time_it_is(clock):
    clock("+400d")
    # The library is there and does what it should, or the other test would see nothing.
    year = subprocess.run(["date", "+%Y"], capture_output=True, text=True).stdout.strip()
    assert int(year) > time.gmtime().tm_year
    assert os.path.exists(PROGRAM)
