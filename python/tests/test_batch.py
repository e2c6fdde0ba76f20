"""deploy/ray/batch.py on this machine: results once each, failures beside, an actor that is killed."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

pytest.importorskip("ray", reason="ray is not installed")
import palimpsest  # noqa: E402

BATCH = pathlib.Path(__file__).parents[2] / "deploy" / "ray" / "batch.py"


@pytest.fixture(scope="module", autouse=True)
def model():
    try:
        palimpsest.Engine(threads=1)
    except palimpsest.NotFound as e:
        pytest.skip(f"no model: {e}")


@pytest.fixture
def jobs(tmp_path):
    lines = [{"id": f"house {i}/note", "text": f"The password of house {i} is word{i * 7}. " * 6,
              "questions": ["What is the password?", "Of which house?"]} for i in range(8)]
    (tmp_path / "jobs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path


def batch(folder, *more):
    return subprocess.Popen([sys.executable, str(BATCH), "--jobs", str(folder / "jobs.jsonl"), "--out",
                             str(folder / "out"), "--budget", "128", "--max-tokens", "6", "--actors", "1", *more],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def results(folder):
    return [json.loads(p.read_text()) for p in sorted((folder / "out").glob("*.json"))]


def test_every_document_once_and_failures_beside(jobs):
    with open(jobs / "jobs.jsonl", "a") as f:
        f.write("\n" + json.dumps({"id": "gone", "file": str(jobs / "none"), "questions": ["?"]}))
    first = batch(jobs)
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 1 and "8 of 9 done" in said, said
    done = results(jobs)
    assert sorted(r["id"] for r in done) == sorted(f"house {i}/note" for i in range(8))
    assert all(len(r["answers"]) == 2 and r["tokens"] > 20 and r["memory"]["bytes"]["total"] > 0 for r in done)
    [failed] = (jobs / "out" / "failed").iterdir()
    assert "No such file" in json.loads(failed.read_text())["error"]
    # Again: what is there is left alone, what failed is tried.
    times = {p: p.stat().st_mtime_ns for p in (jobs / "out").glob("*.json")}
    (jobs / "none").write_text("It is here now.")
    again = batch(jobs)
    said, _ = again.communicate(timeout=300)
    assert again.returncode == 0 and "8 done before" in said, said
    assert all(p.stat().st_mtime_ns == t for p, t in times.items())
    assert not list((jobs / "out" / "failed").iterdir())


def command_of(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def descendants(pid):
    found = subprocess.run(["pgrep", "-P", str(pid)], capture_output=True, text=True).stdout.split()
    return found + [d for child in found for d in descendants(child)]


def test_an_actor_that_is_killed_loses_nothing(jobs):
    running = batch(jobs)
    for _ in range(600):
        if results(jobs):
            break
        time.sleep(0.1)
    found = [pid for pid in descendants(running.pid) if b"ray::MapWorker" in command_of(pid)]
    for pid in found:
        os.kill(int(pid), signal.SIGKILL)
    said, _ = running.communicate(timeout=300)
    assert running.returncode == 0, said
    assert found and len(results(jobs)) == 8


@pytest.mark.parametrize("line", ["{}", "7", '{"id": "", "text": "x", "questions": ["?"]}', '{"id": "a", "text": "x", "questions": "Who?"}', '{"id": "a", "questions": []}', '{"id": 5, "text": "x", "questions": ["?"]}'])
def test_bad_jobs_are_refused(jobs, line):
    (jobs / "jobs.jsonl").write_text(line)
    refused = batch(jobs)
    said, _ = refused.communicate(timeout=60)
    assert refused.returncode == 1 and "job 1" in said
