"""
Answers of a Prefect server about flow runs, over HTTP: what tests of decisions need, without a database.
"""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit
from uuid import UUID, uuid4

from prefect.client.schemas.objects import FlowRun, State, StateType, TaskRun


class PrefectServer:
    """
    Flow runs with their states, and subflows of them: a context manager.
    """

    def __init__(self) -> None:
        self._documents: dict[str, str] = {"/api/admin/version": json.dumps("3.9.1")}
        self._histories: dict[str, str] = {}
        self._paths: list[str] = []
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self.url = f"http://127.0.0.1:{self._http.server_port}/api"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def flow_run(self, *states: str | State, within: UUID | None = None, pid: str | None = None) -> UUID:
        """
        A flow run that has gone through these states, or types of states.

        Args:
            within: The flow run that it is a subflow of.
            pid: Of its process, as Prefect has it.
        """
        began = datetime.now(UTC)
        history = [
            (state if isinstance(state, State) else State(type=StateType(state))).model_copy(
                update={"timestamp": began + timedelta(seconds=number)}
            )
            for number, state in enumerate(states)
        ]
        run = FlowRun(id=uuid4(), flow_id=uuid4(), state=history[-1] if history else None)
        run.state_type = history[-1].type if history else None
        run.infrastructure_pid = pid
        if within is not None:
            task = TaskRun(id=uuid4(), task_key="subflow", dynamic_key="0", flow_run_id=within)
            run.parent_task_run_id = task.id
            self._documents[f"/api/task_runs/{task.id}"] = task.model_dump_json()
        self._documents[f"/api/flow_runs/{run.id}"] = run.model_dump_json()
        # In no order: Prefect promises none.
        self._histories[str(run.id)] = json.dumps([state.model_dump(mode="json") for state in reversed(history)])
        return run.id

    def asked(self, flow_run_id: UUID) -> int:
        """
        How often somebody has asked for a flow run.
        """
        return self._paths.count(f"/api/flow_runs/{flow_run_id}")

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        documents, histories, paths = self._documents, self._histories, self._paths

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                parts = urlsplit(self.path)
                paths.append(parts.path)
                asked = parse_qs(parts.query).get("flow_run_id", [""])[0]
                answer = histories.get(asked) if asked else documents.get(parts.path)
                body = (answer or "{}").encode()
                self.send_response(200 if answer else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_request(self, code: object = "-", size: object = "-") -> None:
                pass

        return Handler
