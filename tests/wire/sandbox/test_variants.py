"""
The list of variants: readings of what is undocumented.
"""

import re
from pathlib import Path

import pytest

from tests.wire.sandbox.legacy.user import CUSTOMER, Legacy
from tests.wire.sandbox.users import NOW, Sandbox
from tl_orchestration.sandbox import SandboxServer, SandboxSettings
from tl_orchestration.sandbox.variants import TABLE


class TestVariants:
    def test_list(self, legacy: Legacy) -> None:
        """The list tells name, value, allowed values, row of the contract and meaning of each."""
        listed = legacy.control("GET", "/variants").json()
        assert [one["name"] for one in listed] == [variant.name for variant in TABLE]
        for one in listed:
            assert set(one) == {"name", "value", "allowed", "row", "says"}
            assert one["value"] == one["allowed"][0]
            assert re.fullmatch(r"C\d+|[AB]\d(\.\d)?", one["row"])
            assert one["says"]

    def test_names_are_unique(self) -> None:
        """No two variants share a name, and none has a reading twice."""
        assert len({variant.name for variant in TABLE}) == len(TABLE)
        assert all(len(set(variant.allowed)) == len(variant.allowed) > 1 for variant in TABLE)

    def test_each_is_tried(self) -> None:
        """Every variant is named in a test of what it does."""
        here = Path(__file__)
        tests = [test for test in here.parent.rglob("test_*.py") if test != here]
        tests.append(here.parents[1] / "webhooks" / "test_sandbox.py")
        tried = "".join(test.read_text(encoding="utf-8") for test in tests)
        assert [variant.name for variant in TABLE if not re.search(rf"\b{variant.name}\b", tried)] == []

    def test_change(self, legacy: Legacy) -> None:
        """A change is all or nothing, answers with the list, and a reset takes it back."""
        before = legacy.control("GET", "/variants").json()
        for wrong, says in (
            ({"cancel_finished": 400, "cancel_finish": 400}, "cancel_finish"),
            ({"cancel_finished": 400, "link_in_status": 0}, "link_in_status"),
            ({"cancel_finished": 418}, "200, 400, 409"),
            ({"cancel_finished": "200"}, "cancel_finished"),
            ({"origin_in_answer": "yes"}, "true, false"),
            ([], "object"),
        ):
            answer = legacy.control("PATCH", "/variants", wrong)
            assert answer.status_code == 400
            assert says in answer.json()["error"]
        assert legacy.control("GET", "/variants").json() == before
        after = legacy.control("PATCH", "/variants", {"cancel_finished": 400}).json()
        assert [one["value"] for one in after if one["name"] == "cancel_finished"] == [400]
        assert legacy.control("GET", "/variants").json() == after
        legacy.control("POST", "/reset")
        assert legacy.control("GET", "/variants").json() == before

    def test_from_toml(self, tmp_path: Path) -> None:
        """Variants are a table in a file, beside keys and lifetime; the old names outside it still work."""
        path = tmp_path / "sandbox.toml"
        path.write_text(
            """
            token_lifetime = 5
            link_in_status = false
            cancel_finished = 400

            [variants]
            cancel_finished = 409
            status_shape = "by-accept"

            [[keys]]
            key = "k"
            secret = "s"
            can_view = false
            """,
            encoding="utf-8",
        )
        settings = SandboxSettings.from_toml(path)
        assert settings.first_variants == {
            "cancel_finished": 409,
            "link_in_status": False,
            "status_shape": "by-accept",
        }
        assert settings.token_lifetime == 5
        assert SandboxSettings(token_lifetime=1).token_lifetime == 1
        assert [(key.key, key.secret, key.can_run, key.can_view) for key in settings.keys] == [("k", "s", True, False)]
        with SandboxServer(settings) as server:
            legacy = Legacy(server)
            with legacy.http:
                listed = {one["name"]: one["value"] for one in legacy.control("GET", "/variants").json()}
                assert listed["status_shape"] == "by-accept"
                legacy.vary(status_shape="full")
                legacy.control("POST", "/reset")
                listed = {one["name"]: one["value"] for one in legacy.control("GET", "/variants").json()}
                assert listed["status_shape"] == "by-accept"

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("variants = 1", "variants"),
            ("[variants]\ncancel_finish = 200", "unknown key 'cancel_finish'"),
            ("[variants]\nstatus_case = 'UPPER'", "status_case"),
            ("token_lifetime = 0", "token_lifetime"),
            ("token_lifetime = 1.5", "token_lifetime"),
            ("[[tokens]]\nvalue = 'planted-token'\ncan_view = 1", "can_view"),
            ("keys = 'k'", "keys must be a list"),
            ("keys = ['k']", "key must be a table"),
            ("[[keys]]\nkey = 'planted-key'", "secret"),
            ("[[keys]]\nkey = 'planted-key'\nsecret = ''", "secret"),
            ("[[keys]]\nkey = ''\nsecret = 'planted-secret'", "key"),
            ("[[keys]]\nkey = 'planted-key'\nsecret = 's'\ncan_run = 1", "can_run"),
            ("[[keys]]\nkey = 'planted-key'\nsecret = 's'\ncan_view = 1", "can_view"),
            ("[[api_keys]]\nscope = 'read'", "value"),
            ("[[api_keys]]\nvalue = 7", "value"),
            ("[[api_keys]]\nvalue = 'planted-key'\nscope = 'write'", "scope"),
            ("organization_id = ''", "organization_id"),
            ("resume_secret = 7", "resume_secret"),
            ("[definitions.x]\nvisibility = 'public'", "visibility"),
            ("[definitions.x]\nstate = 'on'", "state"),
            ("[definitions.x]\nbefore_run = 1", "before_run"),
            ("[definitions.x]\nbefore_run = { workflow_running = 1 }", "unknown key 'workflow_running'"),
            ("[definitions.x]\nbefore_run = { workflow_queued = -1 }", "seconds"),
        ],
    )
    def test_mistakes_in_toml(self, tmp_path: Path, text: str, says: str) -> None:
        """A mistake is one sentence that names the setting and shows no credential."""
        path = tmp_path / "sandbox.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError) as caught:
            SandboxSettings.from_toml(path)
        assert says in str(caught.value)
        assert "planted" not in str(caught.value)

    def test_credentials_are_not_in_the_repr(self) -> None:
        """Somebody may have configured real ones."""
        assert not re.search("sandbox-key|sandbox-secret|b3sk_|sandbox-resume", repr(SandboxSettings()))

    def test_nothing_personal_is_in_a_repr(self, legacy: Legacy, current: Sandbox) -> None:
        """What the sandbox keeps may be printed in a failing test: tokens and people stay out of it."""
        store = legacy.server.store
        legacy.keep(CUSTOMER)
        execution = legacy.run()
        token = current.start("kyc-review", parameters=CUSTOMER)["token"]
        store.force(execution["id"], {"result": CUSTOMER})
        session = store.sessions.open(store.settings.keys[0], NOW, 1)
        cases = [*store.cases.cases.values(), *store.cases.parameter_sets.values()]
        printed = repr([store.executions, store.starts, cases, session])
        secrets = ("Ada", "Quux", token, session.access_token, session.refresh_token)
        assert not any(secret in printed for secret in secrets)
