"""
Connection -> client. Nothing else of this provider reads a connection.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook

from airflow_provider import connection_form, inboxes

if TYPE_CHECKING:
    from airflow.sdk import Connection

    from tl_orchestration import AsyncClient, Client
    from tl_orchestration.hints import HintSource
    from tl_orchestration.ledger import Ledger, SqlLedger
    from tl_orchestration.result_policy import ResultPolicy

_SETTINGS = (
    "workspace_id",
    "request_timeout",
    "max_connections",
    "requests_per_second",
    "proxy",
    "ca_bundle",
    "client_cert",
    "status_map",
)


class TransactionlinkHook(BaseHook):
    """
    Builds clients from an Airflow connection of type ``transactionlink``.

    Args:
        transactionlink_conn_id: Host: base URL (empty: the vendor's). Password: organization token, B3OS key or, with
            the API key as login, API secret of the legacy service. The other fields are described in the connection
            form.
    """

    conn_name_attr = "transactionlink_conn_id"
    default_conn_name = connection_form.DEFAULT_CONN_ID
    conn_type = connection_form.CONN_TYPE
    hook_name = connection_form.HOOK_NAME

    def __init__(self, transactionlink_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.transactionlink_conn_id = transactionlink_conn_id
        self._read: Connection | None = None

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """
        The form's own fields, for Airflow 3.1.
        """
        from wtforms import (  # type: ignore[import-untyped]  # has no types
            BooleanField,
            IntegerField,
            PasswordField,
            StringField,
        )

        def widget(form_field: Mapping[str, Any]) -> Any:
            schema = form_field["schema"]
            kinds = {"boolean": BooleanField, "integer": IntegerField}
            kind = schema["type"] if isinstance(schema["type"], str) else schema["type"][0]
            chosen = PasswordField if schema.get("format") == "password" else kinds.get(kind, StringField)
            return chosen(form_field["label"], description=form_field["description"], default=schema.get("default"))

        return {name: widget(form_field) for name, form_field in connection_form.FIELDS.items()}

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """
        The form's common fields, for Airflow 3.1.
        """
        return {
            "hidden_fields": connection_form.HIDDEN,
            "relabeling": connection_form.RELABELED,
            "placeholders": connection_form.PLACEHOLDERS,
        }

    def get_conn(self) -> Client:
        """
        As :meth:`get_client`, under the name that hooks share.
        """
        return self.get_client()

    def get_client(self, ledger: Ledger | None = None, status_map: Mapping[str, str] | None = None) -> Client:
        """
        A client for a worker. The connection is read once, now.

        Args:
            ledger: Keeps starts with a key from happening twice.
            status_map: Status words that the task teaches, beside the connection's.

        Raises:
            InvalidSettings: There is no such connection, or it cannot be used; the message says why.
        """
        from airflow_provider.observer import observer
        from tl_orchestration import Client

        arguments = client_arguments(self._connection(), status_map, look_up=self._look_up)
        return Client(**arguments, ledger=ledger, observer=observer(triggerer=False))

    async def aget_client(self, status_map: Mapping[str, str] | None = None) -> AsyncClient:
        """
        A client for an event loop; see :mod:`airflow_provider.shared_clients` for the one that triggers share.

        Raises:
            InvalidSettings: As :meth:`get_client`.
        """
        return self.async_client(await self.alook_up(), status_map)

    async def alook_up(self) -> Connection:
        """
        The connection as it is now.

        Raises:
            InvalidSettings: There is none.
        """
        from airflow_provider.versions import AirflowNotFoundException

        try:
            return await self.aget_connection(self.transactionlink_conn_id)
        except AirflowNotFoundException:
            raise _undefined(self.transactionlink_conn_id) from None

    def batch_client(self, ledger: SqlLedger) -> AsyncClient:
        """
        A client for a batch in a worker. The connection is read once, now, and again when the service refuses its
        credential.

        Args:
            ledger: Keeps the campaign.

        Raises:
            InvalidSettings: As :meth:`get_client`.
        """
        from airflow_provider.observer import observer
        from tl_orchestration import AsyncClient

        arguments = client_arguments(self._connection(), look_up=self._look_up)
        return AsyncClient(**arguments, ledger=ledger, observer=observer(triggerer=False))

    @staticmethod
    def async_client(
        connection: Connection,
        status_map: Mapping[str, str] | None = None,
        inbox: HintSource | None = None,
        ledger: Ledger | None = None,
    ) -> AsyncClient:
        """
        A client for an event loop, with what a connection says. Its credential stays as it was read.

        Args:
            inbox: Where webhooks arrive, so that its waits hear of endings.
            ledger: Of the campaign that it waits for.

        Raises:
            InvalidSettings: As :meth:`get_client`.
        """
        from airflow_provider.observer import observer
        from tl_orchestration import AsyncClient

        return AsyncClient(
            **client_arguments(connection, status_map), ledger=ledger, observer=observer(triggerer=True), inbox=inbox
        )

    def service(self) -> str:
        """
        Name of the service that the connection speaks.
        """
        return _service(_extra(self._connection()))

    def sql_ledger(self, what: str = "A key") -> SqlLedger:
        """
        The ledger at :meth:`ledger_url`. Nothing is opened before its first use.

        Args:
            what: What needs it, as the subject of a sentence.

        Raises:
            InvalidSettings: There is none, it cannot be used, or what it needs is not installed.
        """
        return sql_ledger(self._connection(), what)

    def ledger_url(self) -> str:
        """
        Of the SQL ledger: the connection's ``ledger_url``, else ``[transactionlink] ledger_url`` of ``airflow.cfg``;
        empty without one.
        """
        return _ledger_url(self._connection())

    def execution_url(self, execution_id: str) -> str:
        """
        Where a person looks at an execution, as the connection's ``execution_url`` says; empty without one. The
        vendor's own pages have no documented address.
        """
        template = str(_extra(self._connection()).get("execution_url") or "")
        return template.replace("{execution_id}", execution_id)

    def result_policy(self) -> ResultPolicy:
        """
        What the connection decides about results, for every DAG that uses it.

        Raises:
            InvalidSettings: There is no such connection, or its extra cannot be read.
        """
        from tl_orchestration.result_policy import ResultPolicy

        extra = _extra(self._connection())
        return ResultPolicy(
            owner=f"Connection {self.transactionlink_conn_id!r}",
            forbids_full=bool(extra.get("forbid_full_result")),
            result_uri_prefixes=extra.get("result_uri_prefixes"),
        )

    def test_connection(self) -> tuple[bool, str]:
        """
        Show that host, TLS and credential work, by a GET that starts nothing.
        """
        from airflow_provider.credentials import accepted_by
        from tl_orchestration.errors import TransactionlinkError

        try:
            with self.get_client() as client:
                client.check()
                return True, (
                    f"{client.base_url} {accepted_by(self.service())}."
                    " Whether it may run a definition shows when one is run."
                )
        except TransactionlinkError as error:
            return False, str(error)
        except Exception as error:  # the page shows whatever this returns, and nothing of what it raises
            return False, f"The connection could not be tested ({type(error).__name__})."

    def _connection(self) -> Connection:
        if self._read is None:
            self._read = self._look_up()
        return self._read

    def _look_up(self) -> Connection:
        from airflow_provider.versions import AirflowNotFoundException

        try:
            return self.get_connection(self.transactionlink_conn_id)
        except AirflowNotFoundException:
            raise _undefined(self.transactionlink_conn_id) from None


def inbox_url(connection: Connection) -> str | None:
    """
    Of the inbox of webhooks: the connection's ``inbox_url``, else ``[transactionlink] inbox_url`` of ``airflow.cfg``.

    Raises:
        InvalidSettings: The connection's extra cannot be read.
    """
    return inboxes.url_of(_extra(connection))


def sql_ledger(connection: Connection, what: str) -> SqlLedger:
    """
    The SQL ledger that a connection names, or Airflow's configuration. Nothing is opened before its first use.

    Args:
        what: What needs it, as the subject of a sentence.

    Raises:
        InvalidSettings: There is none, it cannot be used, or what it needs is not installed.
    """
    from tl_orchestration.errors import InvalidSettings

    url = _ledger_url(connection)
    if not url:
        raise InvalidSettings(
            f"{what} needs a SQL ledger, and neither connection {connection.conn_id!r} (ledger_url) nor"
            " [transactionlink] ledger_url of airflow.cfg names one, such as"
            " postgresql+psycopg://user@host/database. Nothing was started."
        )
    try:
        from tl_orchestration.ledger import SqlLedger
    except ImportError as error:
        raise InvalidSettings(f"This task is kept in a SQL ledger, and {error}.") from None
    return SqlLedger(url)


def client_arguments(
    connection: Connection,
    status_map: Mapping[str, str] | None = None,
    *,
    look_up: Callable[[], Connection] | None = None,
) -> dict[str, Any]:
    """
    What a connection says, as the arguments of a client.

    Args:
        connection: As it was read.
        status_map: Adds to the connection's own.
        look_up: Reads the connection anew once the service refuses its credential; None: it stays as it was read.

    Raises:
        InvalidSettings: It is of another kind, has no credential of its service, or a field cannot be used.
    """
    from airflow_provider.credentials import credential
    from airflow_provider.versions import conf
    from tl_orchestration import Settings
    from tl_orchestration.errors import InvalidSettings

    name = connection.conn_id
    if status_map is not None and not isinstance(status_map, Mapping):
        raise InvalidSettings(
            f"status_map must be a dict from the service's words to their meanings, not {type(status_map).__name__}."
        )
    if connection.conn_type != connection_form.CONN_TYPE:
        raise InvalidSettings(
            f"Connection {name!r} is of type {connection.conn_type!r}, not {connection_form.CONN_TYPE!r}."
            " Name a Transactionlink connection in transactionlink_conn_id."
        )
    extra = _extra(connection)
    allowed = [host for host in conf.get("transactionlink", "allowed_hosts", fallback="").split(",") if host.strip()]
    chosen = {setting: extra[setting] for setting in _SETTINGS if extra.get(setting) not in (None, "")}
    try:
        typed = _typed(chosen)
        typed["status_map"] = {**typed.get("status_map", {}), **(status_map or {})}
        settings = Settings(**typed, allowed_hosts=tuple(allowed) or None)
    except (TypeError, ValueError):
        raise InvalidSettings(f"Connection {name!r} has a field of the wrong type in its extra.") from None
    return {
        "credentials": credential(_service(extra), _text(extra.get("organization_id")), connection, look_up),
        "base_url": _base_url(connection),
        "service": _service(extra),
        "settings": settings,
    }


def _ledger_url(connection: Connection) -> str:
    from airflow_provider.versions import conf

    named = _extra(connection).get("ledger_url")
    return str(named or conf.get("transactionlink", "ledger_url", fallback="") or "").strip()


def _service(extra: Mapping[str, Any]) -> str:
    return _text(extra.get("service")) or "transactionlink"


def _text(value: Any) -> str | None:
    return str(value).strip() or None if value is not None else None


def _typed(chosen: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, Callable[[Any], Any]] = {
        "request_timeout": float,
        "max_connections": int,
        "requests_per_second": float,
        "status_map": _object,
    }
    return {name: kinds.get(name, str)(value) for name, value in chosen.items()}


def _object(value: Any) -> Any:
    return json.loads(value) if isinstance(value, str) else value


def _base_url(connection: Connection) -> str | None:
    host = (connection.host or "").strip()
    if not host:
        return None
    url = host if "://" in host else f"https://{host}"
    return f"{url}:{connection.port}" if connection.port and url.count(":") == 1 else url


def _extra(connection: Connection) -> dict[str, Any]:
    """
    The extra as a dict. Not by ``extra_dejson``: that talks to the supervisor, which an event loop must not wait for.
    """
    from tl_orchestration.errors import InvalidSettings

    try:
        extra = json.loads(connection.extra or "{}")
    except ValueError:
        extra = None
    if not isinstance(extra, dict):
        raise InvalidSettings(f"The extra of connection {connection.conn_id!r} is not a JSON object.")
    return extra


def _undefined(conn_id: str) -> Exception:
    from tl_orchestration.errors import InvalidSettings

    return InvalidSettings(
        f"There is no connection {conn_id!r}. Create it: airflow connections add {conn_id} --conn-type"
        f" {connection_form.CONN_TYPE} --conn-host https://api.transactionlink.io --conn-password YOUR_TOKEN"
    )
