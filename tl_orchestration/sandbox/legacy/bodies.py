"""What the bodies of legacy requests must look like; unknown members are ignored."""

from typing import Any

import attrs

from tl_orchestration.sandbox.checks import is_number, is_object, is_text, require
from tl_orchestration.sandbox.legacy.cases import BUSINESS, PERSONAL
from tl_orchestration.sandbox.transactionlink_body import optional_uuid
from tl_orchestration.sandbox.variants import Variants

_MAY_BE_NUMBERS = frozenset({"personalNumber", "phone"})


@attrs.frozen(kw_only=True)
class RunBody:
    """The checked members of a legacy start."""

    definition: str
    case_id: str | None
    record_id: str | None
    parameters_id: str | None


def read_case(body: dict[str, Any], variants: Variants) -> dict[str, Any]:
    """The known members of a new case. Raises `ValueError` with the sentence for the answer."""
    fields = {name: body[name] for name in (*PERSONAL, *BUSINESS, "documents") if body.get(name) is not None}
    phone = fields.get("phone", {})
    require(is_object(phone), "phone must be an object", phone)
    texts = {name: value for name, value in fields.items() if name not in {"phone", "documents"}}
    for name, value in {**texts, **{f"phone.{member}": value for member, value in phone.items()}}.items():
        may_be_number = variants["case_numbers"] == "taken" and name.partition(".")[0] in _MAY_BE_NUMBERS
        require(isinstance(value, str) or (may_be_number and is_number(value)), f"{name} must be a string", value)
    documents = fields.get("documents", [])
    listed = isinstance(documents, list) and all(is_object(document) for document in documents)
    require(listed, "documents must be a list of objects", documents)
    return fields


def read_parameters(body: dict[str, Any]) -> tuple[str, Any]:
    """The definition and value of a new parameters set. Raises `ValueError` with the sentence for the answer."""
    definition = _definition(body)
    require("parameters" in body, "parameters must be given", sorted(body))
    return definition, body["parameters"]


def read_run(body: dict[str, Any], version: int) -> RunBody:
    """The members of a start in this version. Raises `ValueError` with the sentence for the answer."""
    parameters_id: Any = body.get("parametersId")
    require(parameters_id is None or is_text(parameters_id), "parametersId must be a string", parameters_id)
    definition = _definition(body)
    case_id = optional_uuid(body, "caseId") if version == 1 else None
    require(version != 1 or case_id is not None, "caseId must be a uuid", case_id)
    return RunBody(
        definition=definition,
        case_id=case_id,
        record_id=None if version == 1 else optional_uuid(body, "recordId"),
        parameters_id=parameters_id,
    )


def _definition(body: dict[str, Any]) -> str:
    definition: Any = body.get("workflowDefinitionId")
    require(is_text(definition), "workflowDefinitionId must be a non-empty string", definition)
    return str(definition)
