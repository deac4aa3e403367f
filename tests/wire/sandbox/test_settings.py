"""
Settings, from Python and from a file, and what a seed fixes.
"""

from pathlib import Path

import pytest

from tests.wire.sandbox.users import UUID4, running
from tl_orchestration.sandbox import SandboxSettings
from tl_orchestration.sandbox.definitions import SCRIPTED, Definition
from tl_orchestration.sandbox.store import Store


class TestSettings:
    def test_from_toml(self, tmp_path: Path) -> None:
        """Every setting but the clock can come from a file; definitions are laid over the scripted ones."""
        path = tmp_path / "sandbox.toml"
        path.write_text(
            """
            seed = 3
            workspace_id = "e3c23802-537d-4aa4-89f1-397c120f5565"
            cancel_finished = 400
            link_in_status = false
            public_url = "http://sandbox.test:8321"

            [[tokens]]
            value = "tot_file"
            can_run = false

            [definitions.kyc-approve]
            duration = 0.5
            result = { decision = "approve", nested = { deep = [1, 2] } }

            [definitions.kyb]
            like = "kyc-review"
            revision = "v9"

            [definitions.kyb-forever]
            like = "kyb"
            duration = inf
            """,
            encoding="utf-8",
        )
        settings = SandboxSettings.from_toml(path)
        assert settings.seed == 3
        assert settings.workspace_id == "e3c23802-537d-4aa4-89f1-397c120f5565"
        assert settings.cancel_finished == 400
        assert settings.link_in_status is False
        assert settings.public_url == "http://sandbox.test:8321"
        assert [(token.value, token.can_run, token.can_view) for token in settings.tokens] == [
            ("tot_file", False, True)
        ]
        assert set(settings.definitions) == {*SCRIPTED, "kyb", "kyb-forever"}
        assert settings.definitions["kyc-approve"].duration == 0.5
        assert settings.definitions["kyc-approve"].result == {
            "decision": "approve",
            "nested": {"deep": [1, 2]},
        }
        assert settings.definitions["kyb"].interactive
        assert settings.definitions["kyb-forever"].duration is None
        assert settings.definitions["kyb-forever"].revision == "v9"
        assert SandboxSettings.from_toml(str(path)) == settings

    def test_empty_file(self, tmp_path: Path) -> None:
        """An empty file gives the defaults."""
        path = tmp_path / "empty.toml"
        path.touch()
        assert SandboxSettings.from_toml(path) == SandboxSettings()

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("seed =", "value"),
            ("seeds = 1", "unknown key 'seeds'"),
            ("clock = 1", "unknown key 'clock'"),
            ("seed = 'x'", "seed"),
            ("seed = true", "seed"),
            ("workspace_id = 'x'", "workspace_id"),
            ("cancel_finished = 500", "cancel_finished"),
            ("cancel_finished = '200'", "cancel_finished"),
            ("cancel_finished = [200]", "cancel_finished"),
            ("cancel_finished = 200.0", "cancel_finished"),
            ("link_in_status = 1", "link_in_status"),
            ("public_url = 'sandbox:1'", "public_url"),
            ("public_url = 7", "public_url"),
            ("tokens = 'tot_x'", "tokens"),
            ("tokens = ['tot_x']", "token"),
            ("[[tokens]]\ncan_run = true", "value"),
            ("[[tokens]]\nvalue = ''", "value"),
            ("[[tokens]]\nvalue = 'tot_x'\ncan_run = 1", "can_run"),
            ("[[tokens]]\nvalue = 'tot_x'\nscope = 1", "unknown key 'scope'"),
            ("definitions = []", "definitions"),
            ("[definitions.kyb]\nlike = 'none'", "definition 'kyb': like"),
            ("[definitions]\nkyb = 1", "definition 'kyb'"),
            ("[definitions.kyb]\nduration = 'long'", "definition 'kyb': duration"),
            ("[definitions.kyb]\nduration = nan", "definition 'kyb': duration"),
            ("[definitions.kyb]\nresult = { born = 2001-01-01 }", "definition 'kyb': result"),
        ],
    )
    def test_mistakes_in_toml(self, tmp_path: Path, text: str, says: str) -> None:
        """A mistake is one ValueError that begins with the path and names the setting."""
        path = tmp_path / "sandbox.toml"
        path.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError) as caught:
            SandboxSettings.from_toml(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert says in str(caught.value)
        assert "tot_x" not in str(caught.value) or "tokens =" in text

    def test_file_that_is_not_there(self, tmp_path: Path) -> None:
        """A missing file is the operating system's error."""
        with pytest.raises(FileNotFoundError):
            SandboxSettings.from_toml(tmp_path / "none.toml")

    def test_definitions_in_python(self) -> None:
        """Definitions may be given whole."""
        mine = Definition(outcome="FAILED", duration=0, result={"why": "because"})
        with running(definitions={"mine": mine}) as sandbox:
            execution = sandbox.start("mine")
            assert execution["status"] == "FAILED"
            assert sandbox.result(execution).json() == {"why": "because"}

    def test_tokens_are_not_in_the_repr(self) -> None:
        """Somebody may have configured a real token."""
        assert "tot_" not in repr(SandboxSettings())


class TestDeterminism:
    def test_same_seed_same_ids(self) -> None:
        """Under one seed ids, tokens and fingerprints repeat, whatever errors came between."""

        def ids(seed: int | None, *, stumble: bool) -> list[str]:
            store = Store(SandboxSettings(seed=seed))
            names = ["kyc-approve", "kyc-review"]
            if stumble:
                store.fingerprint()
            return [store.start(name, parameters={}, locale="en").id for name in names]

        assert ids(1, stumble=False) == ids(1, stumble=True)
        assert not set(ids(1, stumble=False)) & set(ids(2, stumble=False))
        assert not set(ids(None, stumble=False)) & set(ids(None, stumble=False))
        assert all(UUID4.fullmatch(one) for one in ids(1, stumble=False))

    def test_same_seed_same_answers(self) -> None:
        """Two servers under one seed and clock give byte for byte the same answers, links apart."""

        def talk() -> list[bytes]:
            with running(seed=11, public_url="http://sandbox.test") as sandbox:
                review = sandbox.post_start("kyc-review")
                refusal = sandbox.post_start("kyc-nothing")
                return [review.content, refusal.content, sandbox.get(review.json()).content]

        assert talk() == talk()
