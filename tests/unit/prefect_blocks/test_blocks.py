"""
What blocks accept, what they refuse when they are made, and what Prefect expects of every block.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
import traceback
from typing import Any

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import SecretStr, ValidationError

from prefect_blocks import TransactionlinkCredentials, TransactionlinkWorkflow
from tl_orchestration.errors import InvalidRequest, InvalidSettings

CANARY = "tot_canary-5512"


def credentials(**fields: Any) -> TransactionlinkCredentials:
    return TransactionlinkCredentials(**{"token": CANARY, **fields})


def workflow(**fields: Any) -> TransactionlinkWorkflow:
    return TransactionlinkWorkflow(**{"credentials": credentials(), "workflow_definition_id": "kyc-approve", **fields})


class TestStandards(BlockStandardTestSuite):
    """Prefect's own suite, over every block of this package."""

    @pytest.fixture(params=[TransactionlinkCredentials, TransactionlinkWorkflow])
    def block(self, request: pytest.FixtureRequest) -> type[Block]:
        found: type[Block] = request.param
        return found

    def test_has_a_valid_image(self, block: type[Block]) -> None:
        """There is a logo; the suite's own test downloads it."""
        assert str(block._logo_url).startswith("https://")


@pytest.mark.parametrize(
    "fields",
    [
        {"token": CANARY},
        {"service": "transactionlink-legacy", "key": "k", "secret": "s"},
        {"service": "b3os", "token": "b3sk_1", "organization_id": "org_1"},
        {"token": CANARY, "base_url": "http://127.0.0.1:8321", "proxy": "http://user:pass@proxy:3128"},
    ],
)
def test_credentials_of_each_service_make_both_clients(fields: dict[str, Any]) -> None:
    """What a service needs is enough for a client of each kind."""
    block = TransactionlinkCredentials(**fields)

    with block.get_client() as client:
        assert client.base_url == block.get_async_client().base_url


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"token": None}, "have a token"),
        ({"token": "  "}, "empty|token"),
        ({"key": "k"}, "neither key nor secret"),
        ({"service": "transactionlink-legacy"}, "key and secret"),
        ({"service": "transactionlink-legacy", "token": None, "key": "k", "secret": CANARY}, "an organization token"),
        ({"service": "b3os"}, "an organization token"),
        ({"token": "b3sk_canary-5512"}, "a key of B3OS"),
        ({"organization_id": "org_1"}, "b3os only"),
        ({"base_url": "http://example.org"}, "allow-list"),
        ({"base_url": f"https://user:{CANARY}@api.transactionlink.io"}, "user name"),
        ({"request_timeout": 0}, "request_timeout"),
        ({"proxy": f"socks5://user:{CANARY}@proxy"}, "proxy"),
        ({"status_map": {"DONE": "FINE"}}, "status_map"),
        ({"tokn": CANARY}, "no field 'tokn'"),
    ],
)
def test_unusable_credentials_are_refused_when_made(fields: dict[str, Any], said: str) -> None:
    """The message says what is wrong and quotes no secret, nor does the traceback."""
    with pytest.raises(InvalidSettings, match=said) as refused:
        credentials(**fields)

    assert "canary-5512" not in "".join(traceback.format_exception(refused.value))


def test_error_of_a_type_quotes_no_secret() -> None:
    """Where pydantic itself refuses a field, it does not show what it was given."""
    with pytest.raises(ValidationError) as refused:
        credentials(request_timeout=CANARY, proxy=[CANARY])

    assert "canary-5512" not in f"{refused.value} {refused.value!r}"


@pytest.mark.parametrize("field", ["token", "proxy", "ledger_url"])
def test_mask_is_no_secret(field: str) -> None:
    """Credentials from stored flow parameters hold Prefect's mask; the refusal says to pass the block's name."""
    with pytest.raises(InvalidSettings, match="Pass the block's name"):
        credentials(**{field: "**********"})


def test_secrets_are_not_shown() -> None:
    """Neither representation nor JSON of a block has its secrets."""
    block = credentials(proxy=f"http://user:{CANARY}@proxy:3128", ledger_url=f"postgresql://user:{CANARY}@host/db")

    assert "canary-5512" not in f"{block!r} {block} {block.model_dump_json()}"
    assert isinstance(block.token, SecretStr)


@pytest.mark.parametrize(
    "fields",
    [
        {"workflow_definition_id": "not/an id"},
        {"timeout": 0},
        {"poll_interval": -1},
        {"expires_in": 60},
        {"locale": "?"},
        {"result_fields": {"decision": "a b"}},
        {"fail_when": "a b"},
        {"correlation_parameter": ""},
        {"timeuot": 60},
    ],
)
def test_unusable_workflow_is_refused_when_made(fields: dict[str, Any]) -> None:
    """What can be told without the service is told before a flow runs."""
    with pytest.raises(InvalidRequest):
        workflow(**fields)


def test_unknown_status_meaning_is_refused_when_made() -> None:
    """A workflow's own status words are checked like those of its credentials."""
    with pytest.raises(InvalidSettings, match="status_map"):
        workflow(status_map={"DONE": "FINE"})


@pytest.mark.parametrize("field", ["wait_mode", "on_cancel", "on_unknown_start", "on_changed_request", "on_partial"])
def test_choice_of_another_word_is_refused(field: str) -> None:
    """A choice takes its words only."""
    with pytest.raises(ValidationError, match=field):
        workflow(**{field: "maybe"})


def test_run_is_not_pickled() -> None:
    """A run can reach a credential, so it stays where it is; the refusal says what to hand on."""
    run = workflow().attach("e-1")

    with pytest.raises(TypeError, match="execution_id"):
        pickle.dumps(run)
    assert repr(run) == "TransactionlinkWorkflowRun('e-1')"
    assert not run.owned


@pytest.mark.parametrize("bad", ["", "a/b", 7])
def test_attach_takes_an_id(bad: Any) -> None:
    """What is no execution id is refused before anything is sent."""
    with pytest.raises(InvalidRequest):
        workflow().attach(bad)


def test_suspend_where_prefect_cannot_is_refused_before_the_start() -> None:
    """``wait_mode='suspend'`` outside of a deployed flow's body starts nothing."""
    with pytest.raises(InvalidRequest, match="it does not run in a flow"):
        workflow(wait_mode="suspend").trigger()


def test_key_and_step_key_exclude_each_other() -> None:
    """One name is enough, and two would leave open which holds."""
    with pytest.raises(InvalidRequest, match="not both"):
        workflow().trigger(key="k", step_key="s")


def test_key_needs_a_ledger() -> None:
    """A business key without a SQL ledger starts nothing and says where to name one."""
    with pytest.raises(InvalidSettings, match="ledger_url"):
        workflow().trigger(key="k")


def test_import_loads_nothing_heavy() -> None:
    """The package is loaded by every server and worker: it loads no client, no database and no server."""
    script = "import sys, prefect; before = set(sys.modules); import prefect_blocks; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)

    ours = {name for name in done.stdout.split() if name.startswith(("tl_orchestration", "prefect_blocks"))}
    assert "prefect_blocks.workflow" in ours
    assert not any(name.startswith("tl_orchestration") for name in ours)
    assert not {"jmespath", "sqlalchemy.dialects.sqlite", "starlette", "uvicorn"} & set(done.stdout.split())
