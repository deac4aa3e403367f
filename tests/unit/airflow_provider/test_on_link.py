"""
The link of an execution in which a person has to act, as the operator hands it over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk import DAG, BaseNotifier

from airflow_provider import on_link as handing_over
from airflow_provider.failures import TransactionlinkFailure, TransactionlinkRetry
from airflow_provider.operators import TransactionlinkRunWorkflowOperator
from tests.airflow_versions import TaskDeferred, stored_dag
from tests.unit.airflow_provider.services import connect
from tests.unit.airflow_provider.test_ledger import Store
from tests.unit.airflow_provider.test_steps import context, step
from tl_orchestration.errors import InvalidRequest, LinkLost, LinkNotDelivered

if TYPE_CHECKING:
    from tests.remote import Remote

REVIEW = {"workflow_definition_id": "kyc-review", "deferrable": True}


@pytest.fixture(autouse=True)
def _connected(monkeypatch: pytest.MonkeyPatch, remote: Remote) -> None:
    connect(monkeypatch, remote.url, "transactionlink")


class Letters:
    """All contexts that a callable was given."""

    def __init__(self) -> None:
        self.contexts: list[dict[str, Any]] = []

    def __call__(self, given: Any) -> None:
        self.contexts.append(given)


class Letter(BaseNotifier):
    """A notifier with a template, which remembers what it has sent."""

    template_fields = ("text", "link")
    sent: list[tuple[str, str]]

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text
        self.link = "of its own"
        self.sent = []

    def notify(self, context: Any) -> None:
        self.sent.append((self.text, context["link"]))


class LaterLetter(Letter):
    """One that can only be awaited."""

    notify = BaseNotifier.notify

    async def async_notify(self, context: Any) -> None:
        self.sent.append((self.text, context["link"]))


class TornLetter(BaseNotifier):
    """One that quotes what it cannot send."""

    def notify(self, context: Any) -> None:
        raise RuntimeError(f"lost {context['link']}")


def deferred(given: Any, **arguments: Any) -> None:
    """A try that starts, or finds, and defers."""
    with pytest.raises(TaskDeferred):
        step(**REVIEW, **arguments).execute(given)


def test_callable_has_the_link_beside_the_context(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """It is called before the step defers, with a context of its own; a retry calls it no more; no warning is left."""
    given, letters = context(), Letters()
    deferred(given, on_link=letters)
    deferred(given, on_link=letters)
    (told,) = letters.contexts
    assert told["ti"] is given["ti"]
    assert told["execution_id"] == remote.starts()[0]["execution_id"]
    assert told["link_token"] in told["link"]
    assert "link" not in given
    assert "nobody was given the link" not in (shown := capsys.readouterr().out)
    assert told["link_token"] not in shown + repr(given["task_state_store"].values)


def test_without_on_link_the_warning_stays(capsys: pytest.CaptureFixture[str]) -> None:
    """A step that hands no link over says so."""
    deferred(context())
    assert "nobody was given the link" in capsys.readouterr().out


def test_link_is_masked_before_anybody_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Airflow is told to mask link and token before the callable can log them."""
    masked: list[object] = []
    monkeypatch.setattr(handing_over, "mask_secret", masked.append)

    def check(given: Any) -> None:
        assert masked == [given["link"], given["link_token"]]

    deferred(context(), on_link=check)
    assert len(masked) == 2


@pytest.mark.parametrize("kind", [Letter, LaterLetter])
def test_notifier_is_rendered_for_each_execution(remote: Remote, kind: type[Letter]) -> None:
    """Its templates have the link, which is that of the execution, and no later one has an earlier one's."""
    letter = kind("Decide: {{ link }} ({{ execution_id }})")
    deferred(context(), on_link=letter)
    deferred(context(run_id="another"), on_link=letter)
    (first, link), (second, other) = letter.sent
    one, two = (start["execution_id"] for start in remote.starts())
    assert (first, second) == (f"Decide: {link} ({one})", f"Decide: {other} ({two})")
    assert link != other


def test_coroutine_function_is_run() -> None:
    """An asynchronous callable delivers as well."""
    links: list[str] = []

    async def deliver(given: Any) -> None:
        links.append(given["link"])

    deferred(context(), on_link=deliver)
    assert len(links) == 1


def test_failed_notification_is_no_delivery(remote: Remote, capsys: pytest.CaptureFixture[str]) -> None:
    """What fails is seen, without its text; the retry delivers the link of the same execution."""
    given, letters = context(), Letters()
    with pytest.raises(TransactionlinkRetry, match="on_link raised RuntimeError") as caught:
        step(**REVIEW, on_link=TornLetter()).execute(given)
    deferred(given, on_link=letters)
    (told,) = letters.contexts
    assert isinstance(caught.value.error, LinkNotDelivered)
    assert told["execution_id"] == caught.value.error.execution_id
    assert len(remote.starts()) == 1
    assert told["link_token"] not in str(caught.value) + capsys.readouterr().out


def test_lost_link(remote: Remote) -> None:
    """Where the service does not show the link again, on_link_lost says whether the step fails or starts again."""
    remote.vary(link_in_status=False)
    given, letters = context(), Letters()
    deferred(given)
    with pytest.raises(TransactionlinkFailure) as caught:
        step(**REVIEW, on_link=letters).execute(given)
    assert isinstance(caught.value.error, LinkLost)
    deferred(given, on_link=letters, on_link_lost="restart")
    lost, again = (start["execution_id"] for start in remote.starts())
    assert [cancel["execution_id"] for cancel in remote.cancels()] == [lost]
    assert [told["execution_id"] for told in letters.contexts] == [again]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"on_link": "mail"}, "on_link of task 'check' must be a callable"),
        ({"on_link_lost": "ignore"}, "on_link_lost"),
        ({"on_link_lost": "restart", "durable": False}, "on_link_lost='restart' needs durable=True or a key"),
    ],
)
def test_wrong_arguments_start_nothing(remote: Remote, arguments: dict[str, Any], words: str) -> None:
    """They are refused before anything is sent."""
    with pytest.raises(TransactionlinkFailure, match=words) as caught:
        step(**REVIEW, **arguments).execute(context(Store()))
    assert isinstance(caught.value.error, InvalidRequest)
    assert remote.starts() == []


def serialized(notifier: BaseNotifier) -> dict[str, Any]:
    """A DAG with a plain and a mapped step, as Airflow stores it."""
    with DAG("links", schedule=None) as dag:
        step(task_id="plain", on_link=notifier)
        TransactionlinkRunWorkflowOperator.partial(task_id="mapped", on_link=notifier).expand(
            workflow_definition_id=["a", "b"]
        )
    return stored_dag(dag)


def test_serialized_dag_is_the_same_at_each_parse() -> None:
    """No address of an object and no template of the notifier enters what Airflow stores and compares."""
    first, second = serialized(Letter("Decide: {{ link }}")), serialized(Letter("Decide: {{ link }}"))
    assert first == second
    assert "object at 0x" not in repr(first)
    assert "Decide" not in repr(first)
