"""
Executors that say of a task's process what other executors may say, at a moment that is certain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.executors.local_executor import LocalExecutor
from airflow.utils.state import TaskInstanceState

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class SaysFailed(LocalExecutor):
    """
    Reports every process of a task as failed, as executors do that have lost one. LocalExecutor, which sees how the
    process of a cleared task ended, reports a success.
    """

    def _read_results(self) -> None:
        while not self.result_queue.empty():
            key, state, _ = self.result_queue.get()
            self.report(key, TaskInstanceState.FAILED if state == TaskInstanceState.SUCCESS else state)

    def report(self, key: Any, state: Any) -> None:
        self.change_state(key, state)


class SaysFailedLate(SaysFailed):
    """
    Keeps the report about the first process of a task until it is given the task's next try.
    """

    def start(self) -> None:
        self._kept: dict[Any, Any] = {}
        super().start()

    def report(self, key: Any, state: Any) -> None:
        if state == TaskInstanceState.FAILED and key.primary not in self._kept:
            self._kept[key.primary] = key
        else:
            super().report(key, state)

    def queue_workload(self, workload: Any, session: Session) -> None:
        super().queue_workload(workload, session)
        first = self._kept.get(workload.key.primary)
        if first is not None and first != workload.key:
            self.log.info("Reporting %s as failed, late.", first)
            self.change_state(first, TaskInstanceState.FAILED)
