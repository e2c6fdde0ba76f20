"""A server of the default model for all tests; PALIMPSEST_SERVER names one that runs instead."""

import os
import re
import subprocess
import sys

import pytest

PROGRAM = os.environ.get("PALIMPSEST_PROGRAM", "build/release/palimpsest")


class Server:
    """`palimpsest serve` on a free port, until stop()."""

    def __init__(self, *flags):
        self.process = subprocess.Popen(
            [PROGRAM, "serve", "--port", "0", *flags], stderr=subprocess.PIPE, text=True)
        self.url = None
        for line in self.process.stderr:
            found = re.search(r"at (http://\S+?)/ ", line)
            if found:
                self.url = found[1]
                break
        if self.url is None:
            raise RuntimeError("the server did not start")

    def stop(self, kill=False):
        if kill:
            self.process.kill()
        else:
            self.process.terminate()
        status = self.process.wait(timeout=60)
        self.process.stderr.close()
        return status


@pytest.fixture(scope="session")
def url():
    named = os.environ.get("PALIMPSEST_SERVER")
    if named:
        yield named.rstrip("/")
        return
    server = Server("--memory-limit", "1GiB")
    yield server.url
    status = server.stop()
    assert status == 0, f"the server ended with {status}"


@pytest.fixture
def make_server():
    servers = []

    def make(*flags):
        servers.append(Server(*flags))
        return servers[-1]

    yield make
    for server in servers:
        if server.process.poll() is None:
            server.stop(kill=True)


if sys.version_info < (3, 9):
    pytest.skip("Python 3.9 or newer is needed", allow_module_level=True)
