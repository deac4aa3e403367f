"""
``make screenshots``: pictures for the documents, of what ``make up`` serves, taken by a headless Chromium.

Needs ``chromium`` on the PATH (Debian's package), and ``make up`` running in another terminal.
"""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

import httpx
from websockets.sync.client import ClientConnection, connect

from dev.airflow_api import AirflowApi
from dev.services import free_port
from dev.stack import DAG_ID, ROOT, TOKEN

if TYPE_CHECKING:
    from collections.abc import Iterator

PICTURES = ROOT / "docs/images"
WIDTH, HEIGHT = 1400, 900
TASK = "check_customer"
CONNECTION = "transactionlink_pictured"


class Browser:
    """
    One page of a Chromium, by its debugging protocol.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._count = 0

    def call(self, method: str, **parameters: Any) -> Any:
        """
        Send a command and wait for its answer.
        """
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=60))
            if answer.get("id") == self._count:
                return answer["result"]

    def until(self, condition: str) -> None:
        """
        Wait until an expression of the page is true.
        """
        ends = time.monotonic() + 60
        while not self.call("Runtime.evaluate", expression=f"Boolean({condition})")["result"].get("value"):
            if time.monotonic() > ends:
                raise RuntimeError(f"The page never came to: {condition}")
            time.sleep(0.3)
        time.sleep(1.5)  # fonts, and animations that open a dialog

    def open(self, url: str, shows: str) -> None:
        """
        Go to a page and wait until it shows a text.
        """
        self.call("Page.navigate", url=url)
        self.until(f"document.body && document.body.innerText.includes({json.dumps(shows)})")

    def click(self, element: str) -> None:
        """
        Press the mouse on an element, given as an expression: some listen to nothing less.
        """
        middle = f"(box => [box.x + box.width / 2, box.y + box.height / 2])({element}.getBoundingClientRect())"
        told = self.call("Runtime.evaluate", expression=f"{element}.scrollIntoView(), {middle}", returnByValue=True)
        x, y = told["result"]["value"]
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def take(self, name: str, height: int = HEIGHT) -> None:
        """
        Keep what the page shows as a picture.
        """
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        time.sleep(1)
        shot = self.call("Page.captureScreenshot", format="png")["data"]
        PICTURES.mkdir(exist_ok=True)
        (PICTURES / f"{name}.png").write_bytes(base64.b64decode(shot))
        print(f"docs/images/{name}.png")


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """
    A Chromium as long as this lasts.
    """
    port = free_port()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={profile}", f"--remote-debugging-port={port}", f"--window-size={WIDTH},{HEIGHT}"]
        process = subprocess.Popen(["chromium", *options, "about:blank"], stderr=subprocess.DEVNULL)
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
                ends = time.monotonic() + 30
                while True:
                    with contextlib.suppress(httpx.TransportError):
                        pages = [page for page in client.get("/json").json() if page["type"] == "page"]
                        if pages:
                            break
                    if time.monotonic() > ends:
                        raise RuntimeError("Chromium did not start.")
                    time.sleep(0.2)
            with connect(pages[0]["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()
            process.wait(10)


def main() -> int:
    """
    Run the example twice and picture it, its task, its log and the connection form.
    """
    api = AirflowApi(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8080")
    stamp = time.strftime("%H%M%S")
    approved = api.trigger(DAG_ID, {"workflow_definition_id": "kyc-approve"}, f"approved-{stamp}")
    waiting = api.trigger(DAG_ID, {"workflow_definition_id": "kyc-slow"}, f"waiting-{stamp}")
    api.wait_for_run(DAG_ID, approved, timeout=180)
    api.wait_for_task(DAG_ID, waiting, TASK, {"deferred"}, timeout=180)
    made = {"connection_id": CONNECTION, "conn_type": "transactionlink", "password": TOKEN}
    with contextlib.suppress(Exception):  # an earlier call of this has made it
        api.request("POST", "connections", json=made)
    with browser() as page:
        page.open(f"{api.base_url}/dags/{DAG_ID}/runs/{approved}", "4 Task Instances")
        page.take("dag-run", 700)
        page.open(f"{api.base_url}/dags/{DAG_ID}/runs/{approved}/tasks/{TASK}", "ended as SUCCEEDED")
        page.take("task-log", 620)
        page.open(f"{api.base_url}/dags/{DAG_ID}/runs/{waiting}/tasks/{TASK}/details", "Transactionlink execution")
        page.take("deferred-task", 700)
        page.open(f"{api.base_url}/connections", CONNECTION)
        page.call("Runtime.evaluate", expression="document.querySelector('[aria-label=\"Edit Connection\"]').click()")
        form = "document.querySelector('[role=dialog]')"
        page.until(f"{form} && {form}.innerText.includes('Extra Fields')")
        buttons = "[...document.querySelectorAll('[role=dialog] button')]"
        page.click(f"{buttons}.find(one => one.textContent.trim() == 'Extra Fields')")
        page.until(f"{form}.innerText.includes('Workspace id')")
        page.take("connection-form", 1900)
    return 0


if __name__ == "__main__":
    sys.exit(main())
