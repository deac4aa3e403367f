"""
The server around the sandbox, and the package that it comes in.
"""

import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

import tl_orchestration.sandbox
from tests.wire.sandbox.users import UNUSED_TLS, Sandbox, running, wait_until
from tl_orchestration.sandbox import SandboxServer, SandboxSettings
from tl_orchestration.sandbox.faults import Fault
from tl_orchestration.sandbox.store import Store


class TestServer:
    def test_real_time(self) -> None:
        """Without a clock of its own the sandbox runs on real time."""
        settings = SandboxSettings(definitions={"kyc-approve": {"duration": 0.2}})
        with SandboxServer(settings) as server:
            sandbox = Sandbox(server)
            with sandbox.http:
                execution = sandbox.start()
                assert execution["status"] == "RUNNING"
                wait_until(lambda: sandbox.status(execution) == "COMPLETED")
                expires = datetime.fromisoformat(execution["expiresAt"])
                assert abs(expires.timestamp() - time.time() - 3600) < 60

    def test_stop_and_start_again(self) -> None:
        """A stop ends the thread and the listening; a second start serves the same state at the same URL."""
        server = SandboxServer()
        with pytest.raises(RuntimeError, match="no address"):
            _ = server.url
        before = set(threading.enumerate())
        with server:
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+", server.url)
            url = server.url
            with pytest.raises(RuntimeError, match="running already"):
                server.start()
            sandbox = Sandbox(server)
            execution = sandbox.start()
        assert set(threading.enumerate()) <= before
        with closing(sandbox.http):
            with pytest.raises(httpx.ConnectError):
                sandbox.get(execution)
            with server:
                assert server.url == url
                assert sandbox.get(execution).status_code == 200
        server.stop()

    def test_stop_does_not_wait_for_a_held_answer(self) -> None:
        """Stopping drops answers that a fault holds back."""
        with ThreadPoolExecutor(1) as pool, running() as sandbox:
            sandbox.order({"on": "start", "kind": "hold", "seconds": 60})
            answer = pool.submit(sandbox.post_start)
            wait_until(lambda: len(sandbox.server.store.starts) == 1)
            began = time.monotonic()
            sandbox.server.stop()
            assert time.monotonic() - began < 30
            with pytest.raises(httpx.RemoteProtocolError):
                answer.result()

    def test_port_in_use(self, server: SandboxServer) -> None:
        """A port that is taken raises in the caller's thread."""
        port = urlsplit(server.url).port
        assert port is not None
        with pytest.raises(OSError, match="in use"):
            SandboxServer(port=port).start()

    def test_server_that_does_not_come_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A failure in the server's thread raises at the start, with its cause."""

        async def fail(*_: object, **__: object) -> None:
            raise ZeroDivisionError

        monkeypatch.setattr("uvicorn.Server.startup", fail)
        server = SandboxServer()
        with pytest.raises(RuntimeError, match="did not come up") as caught:
            server.start()
        assert isinstance(caught.value.__cause__, ZeroDivisionError)
        server.stop()

    def test_many_at_once(self, sandbox: Sandbox) -> None:
        """Requests from many threads are all committed, each with its own number."""
        with ThreadPoolExecutor(16) as pool:
            executions = list(pool.map(lambda _: sandbox.start(), range(200)))
        starts = sandbox.server.store.starts
        assert len({execution["id"] for execution in executions}) == 200
        assert {start.execution_id for start in starts} == {execution["id"] for execution in executions}
        assert sorted(start.request for start in starts) == list(range(1, 201))

    def test_store_from_many_threads(self) -> None:
        """The store keeps its counts when used without a server between."""
        store = Store(SandboxSettings())
        store.faults.add(Fault(on="start", kind="drop", times=500))

        def work(_: int) -> bool:
            store.count_request("POST /workflows")
            execution = store.start("kyc-slow", parameters={}, locale="en")
            return store.cancel(execution.id) and store.faults.take("start", None) is not None

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(500)))
        assert store.requests == {"POST /workflows": 500}
        assert len(store.starts) == len(store.cancels) == 500
        assert store.faults.take("start", None) is None

    def test_serve_in_the_foreground(self) -> None:
        """serve says in one line where it listens and how to stop it, and Ctrl+C ends it in good order."""
        code = "from tl_orchestration.sandbox import serve; serve(port=0)"
        with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            line = process.stderr.readline()
            try:
                found = re.search(r"listening on (http://127\.0\.0\.1:\d+)", line)
                assert found, line
                assert "Ctrl+C" in line
                wait_until(lambda: _is_healthy(found[1]))
            finally:
                process.send_signal(signal.SIGINT)
            assert process.wait(60) == 0
            assert process.stderr.read() == ""


class TestPackage:
    def test_public_names(self) -> None:
        """The public names are sorted and there."""
        names = tl_orchestration.sandbox.__all__
        assert names == sorted(names)
        assert {"SandboxServer", "SandboxSettings", "create_app"} <= set(names)
        assert all(hasattr(tl_orchestration.sandbox, name) for name in names)

    @pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
    def test_missing_extra(self, missing: str) -> None:
        """Without the extra the import says which one to install."""
        code = f"import sys; sys.modules[{missing!r}] = None; import tl_orchestration.sandbox"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert run.returncode == 1
        last = run.stderr.strip().splitlines()[-1]
        assert last.startswith(f"ImportError: The sandbox needs {missing}")
        assert "pip install 'tl-orchestration[sandbox]'" in last

    def test_independence(self) -> None:
        """The sandbox imports nothing else of this project, so that it can be an oracle for it."""
        package = Path(tl_orchestration.sandbox.__file__).parent
        imported = {
            match
            for path in package.rglob("*.py")
            for match in re.findall(r"^\s*(?:from|import) (tl_orchestration[\w.]*)", path.read_text(), re.M)
        }
        assert imported
        assert all(name.startswith("tl_orchestration.sandbox") for name in imported)


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/_sandbox/health", trust_env=False, verify=UNUSED_TLS).is_success
    except httpx.ConnectError:
        return False
