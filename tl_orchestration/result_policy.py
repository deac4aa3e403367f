"""
What a step may hand on of a result, and where results may go: decided with the credential, for every step that uses it.

An orchestrator stores what a step hands on. Nothing is read, written or sent here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from tl_orchestration.errors import InvalidRequest
from tl_orchestration.result_uri import ResultUri, prefixes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tl_orchestration.models import Execution
    from tl_orchestration.outcome import OutcomeRules, Verdict

MODES = ("full", "none", "reference")
"""
What ``result`` of a step may be beside the URI of a storage.
"""

#: Functions of JMESPath that turn objects and lists into a text.
_MAKES_TEXT = frozenset({"join", "to_string"})


@frozen(kw_only=True)
class ResultPolicy:
    """
    What a connection or a credentials block decides about results.

    Args:
        owner: Who decides, as the subject of a sentence.
        forbids_full: Whether whole results stay out of what steps hand on.
        result_uri_prefixes: Storage URIs below which results may go, as :func:`tl_orchestration.result_uri.prefixes`
            takes them. They are read where they are needed.
    """

    owner: str
    forbids_full: bool
    result_uri_prefixes: Any = field(repr=False)

    def prefixes(self) -> tuple[ResultUri, ...]:
        """
        ``result_uri_prefixes``, read; none: results may go anywhere.

        Raises:
            InvalidSettings: They cannot be read.
        """
        return prefixes(self.result_uri_prefixes)

    def check_uri(self, uri: ResultUri | None, what: str) -> None:
        """
        Refuse a place that is below none of the prefixes, where there are any.

        Args:
            uri: The place; None: one that no URI names.
            what: What names it, as the subject of a sentence.

        Raises:
            InvalidRequest: It is below none.
            InvalidSettings: The prefixes cannot be read.
        """
        allowed = self.prefixes()
        if allowed and (uri is None or not any(uri.is_within(prefix) for prefix in allowed)):
            below = ", ".join(str(prefix) for prefix in allowed)
            raise InvalidRequest(
                f"{self.owner} allows results only below {below} (result_uri_prefixes), and {what} is not."
            )

    def handover(self, result: Any, rules: OutcomeRules) -> Handover:
        """
        What a step hands on, checked before it starts anything.

        Args:
            result: One of :data:`MODES`, or the URI of a storage.
            rules: How the step judges an ended execution, with its fields.

        Raises:
            InvalidRequest: ``result`` is neither a mode nor a storage URI; or what it, or a field, asks for is not
                allowed.
            InvalidSettings: The prefixes are needed, and cannot be read.
        """
        uri = self._destination(result)
        for name, expression in rules.result_fields.items():
            if self.forbids_full and expression.functions() & _MAKES_TEXT:
                raise InvalidRequest(
                    f"{self.owner} forbids full results, and result_fields[{name!r}] makes a text of what it selects."
                    " Name the fields that you need."
                )
        return Handover(policy=self, rules=rules, full=result == "full", uri=uri)

    def check_values(self, fields: Mapping[str, Any], execution_id: str) -> None:
        """
        Refuse fields that are parts of a result rather than values, where full results are forbidden.

        Raises:
            InvalidRequest: One is.
        """
        for name, value in fields.items():
            if self.forbids_full and isinstance(value, dict | list):
                raise InvalidRequest(
                    f"{self.owner} forbids full results, and result_fields[{name!r}] selects an object or a list.",
                    execution_id=execution_id,
                )

    def _destination(self, result: Any) -> ResultUri | None:
        if result == "full" and self.forbids_full:
            raise InvalidRequest(
                f"{self.owner} forbids result='full'. Name what you need in result_fields, use the reference, or a"
                " storage URI."
            )
        if result in MODES:
            return None
        if not isinstance(result, str) or "://" not in result:
            raise InvalidRequest(
                "result must be 'reference', 'full', 'none' or the URI of a storage, such as s3://bucket/."
            )
        uri = ResultUri.parse(result)
        self.check_uri(uri, "the URI given as result")
        return uri


@frozen(kw_only=True)
class Handover:
    """
    What a step hands on of an execution. :meth:`ResultPolicy.handover` makes it.

    Args:
        policy: Which allows it.
        rules: How an ended execution is judged, with the fields.
        full: Whether the whole result is handed on.
        uri: Where in a storage the result goes; None: nowhere.
    """

    policy: ResultPolicy
    rules: OutcomeRules
    full: bool
    uri: ResultUri | None

    @property
    def need_result(self) -> bool:
        """
        Whether it cannot be told without the result.
        """
        return self.full or self.uri is not None or self.rules.need_result

    def returned(
        self,
        execution: Execution,
        document: Mapping[str, Any] | None,
        store: Callable[[ResultUri, str, Mapping[str, Any]], Mapping[str, Any]],
    ) -> tuple[Verdict, dict[str, Any]]:
        """
        The verdict about an execution that has succeeded, and what the step returns where it is ``pass``. What the
        rules stop, or the policy does not allow, is not stored.

        Args:
            document: The result; it may be None where :attr:`need_result` is false.
            store: Writes a result at a URI, for the execution of that id, and tells by what a reader finds and
                recognises it.

        Raises:
            InvalidRequest: A field selects more than a value, where full results are forbidden.
            ResultShapeChanged: A field or a verdict cannot be read from the result.
        """
        returns: dict[str, Any] = {"execution_id": execution.id, "status": execution.status.value, "fields": {}}
        if not self.need_result:
            return "pass", returns
        assert document is not None, "need_result says so"
        verdict = self.rules.verdict(document)
        if verdict != "pass":
            return verdict, {}
        returns["fields"] = self.rules.fields(document)
        self.policy.check_values(returns["fields"], execution.id)
        if self.full:
            returns["result"] = document
        if self.uri is not None:
            returns |= store(self.uri, execution.id, document)
        return verdict, returns


__all__ = ["MODES", "Handover", "ResultPolicy"]
