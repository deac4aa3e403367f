"""
Airflow's REST API as tests and demonstrations use it: a method for each thing a person does, typed answers.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx
from attrs import field, frozen

from dev.airflow_http import AirflowHttp
from dev.http_service import ServiceError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

TERMINAL = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
"""
States that a task instance does not leave by itself.
"""


@frozen
class TaskInstance:
    """
    One try of one task, or of one element of a mapped task.

    Args:
        pid: Of the process that runs ``execute``, on its machine.
        raw: Everything the API said.
    """

    task_id: str
    map_index: int
    state: str | None
    try_number: int
    start_date: datetime | None
    duration: float | None
    pid: int | None
    raw: dict[str, Any] = field(repr=False)

    @classmethod
    def from_api(cls, raw: dict[str, Any]) -> TaskInstance:
        """
        From the object the API sends.
        """
        return cls(
            task_id=raw["task_id"],
            map_index=raw["map_index"],
            state=raw["state"],
            try_number=raw["try_number"],
            start_date=_moment(raw["start_date"]),
            duration=raw["duration"],
            pid=raw["pid"],
            raw=raw,
        )

    @property
    def key(self) -> str:
        """
        ``task_id``, and ``task_id[map_index]`` for an element of a mapped task.
        """
        return _key(self.task_id, self.map_index)

    @property
    def rendered_fields(self) -> dict[str, Any]:
        """
        What Airflow stored of the rendered template fields.
        """
        fields: dict[str, Any] = self.raw.get("rendered_fields") or {}
        return fields


class AirflowApi(AirflowHttp):
    """
    What a person does in Airflow's web interface, and what one reads there.
    """

    # --- Airflow itself

    def health(self) -> dict[str, dict[str, str | None]] | None:
        """
        State and last heartbeat of each component; None while the api-server does not answer.
        """
        try:
            answer = self._http.get("/api/v2/monitor/health", timeout=5)
            answer.raise_for_status()
        except httpx.HTTPError:
            return None
        health: dict[str, dict[str, str | None]] = answer.json()
        return health

    def warm_up(self) -> bool:
        """
        Ask the API that tasks talk to whether it is there.
        """
        try:
            return self._http.get("/execution/health", timeout=30).is_success
        except httpx.HTTPError:
            return False

    def import_errors(self) -> dict[str, str]:
        """
        DAG file to the traceback of its last failed parse.
        """
        found = self.request("GET", "importErrors", params={"limit": 100})["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in found}

    def test_connection(self, body: Mapping[str, Any]) -> tuple[bool, str]:
        """
        Press *Test* in the connection form.

        Args:
            body: ``connection_id``, ``conn_type``, ``host``, ``password``, ``extra``, ...

        Returns:
            Whether it works, and the message shown.
        """
        answer = self.request("POST", "connections/test", json=dict(body))
        return answer["status"], answer["message"]

    # --- DAGs and runs

    def wait_for_dag(
        self, dag_id: str, timeout: float = 120, *, parsed_after: datetime | None = None
    ) -> dict[str, Any]:
        """
        Wait until a DAG is known; after a change of its file, until a parse that began later has ended.

        Args:
            parsed_after: What :meth:`AirflowRig.write_dag` returned.
        """

        def look() -> dict[str, Any] | None:
            try:
                dag: dict[str, Any] = self.request("GET", f"dags/{dag_id}")
            except ServiceError as error:
                if error.status == 404:
                    return None
                raise
            ended, lasted = _moment(dag["last_parsed_time"]), timedelta(seconds=dag["last_parse_duration"] or 0)
            fresh = parsed_after is None or (ended is not None and ended - lasted > parsed_after)
            return dag if fresh and not dag["is_stale"] else None

        return self.wait_for(look, f"DAG {dag_id}", timeout)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, run_id: str | None = None) -> str:
        """
        Start a run.

        Returns:
            Its id.
        """
        body = {"logical_date": None, "conf": dict(conf or {})} | ({"dag_run_id": run_id} if run_id else {})
        started: str = self.request("POST", f"dags/{dag_id}/dagRuns", json=body)["dag_run_id"]
        return started

    def dag_run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """
        Everything the API says of a run.
        """
        run: dict[str, Any] = self.request("GET", f"dags/{dag_id}/dagRuns/{run_id}")
        return run

    def wait_for_run(self, dag_id: str, run_id: str, timeout: float = 180) -> str:
        """
        Wait until a run ends.

        Returns:
            ``success`` or ``failed``.
        """

        def look() -> str | None:
            state: str = self.dag_run(dag_id, run_id)["state"]
            return state if state in TERMINAL else None

        return self.wait_for(look, f"the end of run {run_id}", timeout, lambda: self.describe_run(dag_id, run_id))

    def describe_run(self, dag_id: str, run_id: str, lines: int = 30) -> str:
        """
        States of all tasks and the end of the logs of those that did not succeed, for a person to read.
        """
        said = []
        for key, task in self.task_instances(dag_id, run_id).items():
            said.append(f"{key}: {task.state}, try {task.try_number}")
            if task.state not in {None, "success", "skipped", "upstream_failed", "scheduled", "queued"}:
                log = self._log(dag_id, run_id, task.task_id, task.try_number, task.map_index)
                said += [f"    {_brief(entry)}" for entry in log[-lines:]]
        return "\n".join(said)

    # --- tasks

    def task_instances(self, dag_id: str, run_id: str) -> dict[str, TaskInstance]:
        """
        All task instances of a run by :attr:`TaskInstance.key`.
        """
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances"
        found: list[TaskInstance] = []
        while True:
            page = self.request("GET", path, params={"limit": 100, "offset": len(found)})["task_instances"]
            found += map(TaskInstance.from_api, page)
            if len(page) < 100:
                break
        return {task.key: task for task in found}

    def task_instance(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> TaskInstance:
        """
        One task instance.
        """
        return TaskInstance.from_api(self.request("GET", _task(dag_id, run_id, task_id, map_index)))

    def wait_for_task(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        states: Collection[str],
        timeout: float = 120,
        map_index: int = -1,
        *,
        try_number: int | None = None,
    ) -> TaskInstance:
        """
        Wait until a task instance is seen in one of these states.

        Args:
            try_number: Wait for this try or a later one.
        """

        def look() -> TaskInstance | None:
            task = self.task_instances(dag_id, run_id).get(_key(task_id, map_index))
            right = task is not None and task.state in states and task.try_number >= (try_number or 0)
            return task if right else None

        what = f"task {task_id} of run {run_id} in {' or '.join(sorted(states))}"
        return self.wait_for(look, what, timeout, lambda: self.describe_run(dag_id, run_id))

    def xcom(self, dag_id: str, run_id: str, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """
        The value under an XCom key, decoded from JSON.
        """
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self.request("GET", path, params={"map_index": map_index})["value"]

    def task_log(self, dag_id: str, run_id: str, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """
        The whole log of one try as plain text: every event with every field, nested ones as JSON.
        """
        return "\n".join(_line(entry) for entry in self._log(dag_id, run_id, task_id, try_number, map_index))

    def extra_links(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, str | None]:
        """
        Name of each button of a task instance to the address behind it, None while there is none.
        """
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
        links: dict[str, str | None] = self.request("GET", path, params={"map_index": map_index})["extra_links"]
        return links

    def rendered_fields(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1) -> dict[str, Any]:
        """
        What Airflow stored of the rendered template fields of a task instance.
        """
        return self.task_instance(dag_id, run_id, task_id, map_index).rendered_fields

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, new_state: str, map_index: int = -1) -> None:
        """
        What *Mark success* and *Mark failed* do.
        """
        self.request("PATCH", _task(dag_id, run_id, task_id, map_index), json={"new_state": new_state})

    def clear(self, dag_id: str, run_id: str, task_ids: Collection[str]) -> None:
        """
        What *Clear* does for these tasks: they run again, and the run with them.
        """
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "reset_dag_runs": True,
        }
        self.request("POST", f"dags/{dag_id}/clearTaskInstances", json=body)

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """
        What *Mark run as failed* (or *success*) does.
        """
        self.request("PATCH", f"dags/{dag_id}/dagRuns/{run_id}", json={"state": state})

    def clear_run(self, dag_id: str, run_id: str) -> None:
        """
        What *Clear* does for a whole run.
        """
        body = {"dry_run": False, "only_failed": False}
        self.request("POST", f"dags/{dag_id}/dagRuns/{run_id}/clear", json=body)

    def live_jobs(self, kind: str) -> list[dict[str, Any]]:
        """
        The jobs of a kind, such as ``TriggererJob``, that run and have had a heartbeat lately.
        """
        found = self.request("GET", "jobs", params={"job_type": kind, "is_alive": True, "job_state": "running"})
        jobs: list[dict[str, Any]] = found["jobs"]
        return jobs

    def _log(
        self, dag_id: str, run_id: str, task_id: str, try_number: int, map_index: int
    ) -> list[str | dict[str, Any]]:
        path = f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/logs/{try_number}"
        params = {"map_index": map_index, "full_content": True}
        content: list[str | dict[str, Any]] = self.request("GET", path, params=params)["content"]
        return content


def _key(task_id: str, map_index: int) -> str:
    return task_id if map_index < 0 else f"{task_id}[{map_index}]"


def _task(dag_id: str, run_id: str, task_id: str, map_index: int) -> str:
    element = f"/{map_index}" if map_index >= 0 else ""
    return f"dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}{element}"


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _line(entry: str | dict[str, Any]) -> str:
    """
    One event of a log; the first fields without their names, the others as name=value.
    """
    if isinstance(entry, str):
        return entry
    rest = dict(entry)
    head = [str(rest.pop(name)) for name in ("timestamp", "level", "event") if rest.get(name) is not None]
    return " ".join(head + [f"{k}={v if isinstance(v, str) else json.dumps(v)}" for k, v in rest.items()])


def _brief(entry: str | dict[str, Any]) -> str:
    """
    One event of a log without what the reader knows already: whose log it is, and frames of Airflow itself.
    """
    if isinstance(entry, str):
        return entry
    known = {"dag_id", "run_id", "task_id", "ti_id", "map_index", "try_number", "logger", "filename", "lineno"}
    rest = {name: value for name, value in entry.items() if name not in known}
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in rest.pop("error_detail", None) or []]
    return " <- ".join([_line(rest), *errors])
