"""Commands end with whoever started them, whatever they did to hide."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tasks.errors import RebuildError
from tasks.loopback import use_direct_loopback
from tasks.processes import Command, environment
from tasks.server import answers, server
from tests.chat_server import serving
from tests.small_repository import until

# Starts a child in a session of its own, as torchrun does, that ignores every polite signal.
_STUBBORN = """
import pathlib, signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", '''
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
time.sleep(120)
'''], start_new_session=True)
time.sleep(0.3)
pathlib.Path("pids").write_text(str(child.pid))
time.sleep(120)
"""


def stubborn_child(folder: Path) -> int:
    until(lambda: (folder / "pids").exists() and (folder / "pids").read_text())
    return int((folder / "pids").read_text())


def test_lines_and_exit_code(tmp_path: Path) -> None:
    code = r"import sys; print('one'); sys.stderr.write('10%\r50%\r100%\n'); sys.exit(7)"
    command = Command([sys.executable, "-c", code], tmp_path, {})
    assert sorted(line for line in command.lines(every=5.0) if line) == ["100%", "one"]
    assert command.wait() == 7


def test_a_stop_ends_a_child_that_left_the_group_and_ignores_signals(tmp_path: Path) -> None:
    command = Command([sys.executable, "-c", _STUBBORN], tmp_path, {})
    child = stubborn_child(tmp_path)
    began = time.monotonic()
    command.stop()
    assert command.wait() != 0
    assert time.monotonic() - began < 9
    assert not psutil.pid_exists(child)


def test_a_killed_parent_takes_everything_with_it(tmp_path: Path) -> None:
    code = f"import sys; from pathlib import Path; from tasks.processes import Command; \
c = Command([sys.executable, '-c', {_STUBBORN!r}], Path({str(tmp_path)!r}), {{}}); c.wait()"
    parent = subprocess.Popen([sys.executable, "-c", code])
    child = stubborn_child(tmp_path)
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    until(lambda: not psutil.pid_exists(child), seconds=9)


def test_what_a_command_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    code = "import subprocess, pathlib; p = subprocess.Popen(['sleep', '60'], start_new_session=True); \
pathlib.Path('pids').write_text(str(p.pid))"
    command = Command([sys.executable, "-c", code], tmp_path, {})
    assert command.wait() == 0
    assert not psutil.pid_exists(int((tmp_path / "pids").read_text()))


@pytest.fixture
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    for name in ("NO_PROXY", "no_proxy"):  # set by what is tested: to be taken back
        monkeypatch.setenv(name, "")
    return monkeypatch


def test_nothing_on_this_machine_is_asked_through_a_proxy(no_proxies: pytest.MonkeyPatch) -> None:
    assert "127.0.0.1" not in environment()["NO_PROXY"]  # without a proxy nothing is changed
    for name in ("HTTP_PROXY", "ALL_PROXY"):
        no_proxies.setenv(name, "http://127.0.0.1:9")
    no_proxies.setenv("no_proxy", "10.0.0.1")
    assert environment()["NO_PROXY"] == environment()["no_proxy"] == "10.0.0.1,localhost,127.0.0.1,::1"
    with serving(host="127.0.0.2") as near:
        use_direct_loopback(near.url)
        assert httpx.get(near.url).status_code == 501  # it came there: the server knows POST alone
        assert not answers(near.url)


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:7890", "socks://127.0.0.1:7890", "http://user:geheim@x:port"])
def test_a_proxy_with_which_prefect_cannot_begin_is_named(proxy: str, no_proxies: pytest.MonkeyPatch) -> None:
    no_proxies.setenv("all_proxy", proxy)
    with pytest.raises(RebuildError, match=r"^The proxy in all_proxy .* or unset all_proxy\.$") as caught:
        use_direct_loopback()
    assert "geheim" not in str(caught.value)


def test_a_temporary_server_that_does_not_start_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def late(sync_client: bool) -> None:
        raise RuntimeError("Timed out while attempting to connect to ephemeral Prefect API server. stdout: …")

    monkeypatch.setattr("tasks.server.get_client", late)
    asked = pytest.raises(RebuildError, match=r"did not start .*Timed out")
    with temporary_settings({PREFECT_API_URL: None}), asked, server(lambda text: None):
        pass
