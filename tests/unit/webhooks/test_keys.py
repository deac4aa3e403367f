"""Keys: how long each is good for, and how little a stranger can make us ask."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from tests.webhooks import KEY, KID, OTHER_KID, STRANGER, pem_of
from tl_orchestration.errors import InvalidSettings, NoAnswer, WebhookRefused, WebhookUndecided
from tl_orchestration.webhooks import keys
from tl_orchestration.webhooks.keys import ABSENT, LIFETIME, RETRY, STALE, FetchedKeys, PinnedKeys
from tl_orchestration.webhooks.public_key import fingerprint, pem, read_key

PUBLIC = KEY.public_key()


class Service:
    """The service's side, and time."""

    def __init__(self) -> None:
        self.now = 1_000_000.0
        self.keys: dict[str, RSAPublicKey] = {KID: PUBLIC}
        self.failure: Exception | None = None
        self.asked: list[tuple[float, str]] = []
        self.before_answer: Callable[[], None] = lambda: None

    def fetch(self, kid: str) -> RSAPublicKey | None:
        self.asked.append((self.now, kid))
        self.before_answer()
        if self.failure is not None:
            raise self.failure
        return self.keys.get(kid)


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def fetched(service: Service) -> Iterator[FetchedKeys]:
    one = FetchedKeys(service.fetch, monotonic=lambda: service.now)
    yield one
    one.close()


def refused(future: Future[RSAPublicKey]) -> bool:
    """Whether a look-up ended with the one error."""
    return isinstance(future.exception(10), WebhookRefused)


def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds."""
    ends = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < ends, "it never came to that"
        time.sleep(0.01)


class TestFetched:
    def test_asks_once(self, fetched: FetchedKeys, service: Service) -> None:
        """A key is fetched at its first use and not again within its lifetime."""
        for _ in range(5):
            assert fetched.lookup(KID).result(10) == PUBLIC
        service.now += LIFETIME - 1
        assert fetched.lookup(KID).result(10) == PUBLIC
        assert service.asked == [(1_000_000.0, KID)]
        service.now += 2
        assert fetched.lookup(KID).result(10) == PUBLIC
        assert len(service.asked) == 2

    def test_single_flight(self, fetched: FetchedKeys, service: Service) -> None:
        """A hundred that need the same key at the same time share one request."""
        answer = threading.Event()

        def held() -> None:
            answer.wait(10)

        service.before_answer = held
        futures = [fetched.lookup(KID) for _ in range(100)]
        answer.set()
        assert all(future.result(10) == PUBLIC for future in futures)
        assert len(service.asked) == 1

    def test_flood_of_random_kids(self, fetched: FetchedKeys, service: Service) -> None:
        """Ten thousand random names in ten minutes cost two requests a minute, and the known key works all the time."""
        assert fetched.lookup(KID).result(10) == PUBLIC
        service.now += 100
        service.asked.clear()
        for _ in range(10_000):
            service.now += 0.06
            assert refused(fetched.lookup(str(uuid.uuid4())))
            assert fetched.lookup(KID).result(10) == PUBLIC
        moments = [moment for moment, _ in service.asked]
        assert max(sum(0 <= other - moment < 60 for other in moments) for moment in moments) <= 2
        assert len(moments) > 10  # it goes on looking, so that a new key gets its turn
        assert KID not in {kid for _, kid in service.asked}
        assert len(fetched._absent) <= keys.MOST

    def test_memory_is_bounded(self, fetched: FetchedKeys, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
        """Names without a key are remembered up to a bound, the latest ones."""
        monkeypatch.setattr(keys, "MOST", 10)
        monkeypatch.setattr(keys, "ABSENT", 3600.0)
        kids = [str(uuid.uuid4()) for _ in range(50)]
        for kid in kids:
            service.now += 61
            assert refused(fetched.lookup(kid))
        assert list(fetched._absent) == kids[-10:]
        service.now += 61
        service.asked.clear()
        for kid in (kids[-1], kids[0]):
            assert refused(fetched.lookup(kid))
        assert [kid for _, kid in service.asked] == [kids[0]]

    def test_known_key_does_not_wait_for_strangers(self, fetched: FetchedKeys, service: Service) -> None:
        """While the service takes its time over keys that it does not have, a known one is asked for again."""
        assert fetched.lookup(KID).result(10) == PUBLIC
        service.now += LIFETIME + 1
        answer, strangers = threading.Event(), {str(uuid.uuid4()) for _ in range(2)}

        def held() -> None:
            if service.asked[-1][1] in strangers:
                answer.wait(20)

        service.before_answer = held
        waiting = [fetched.lookup(kid) for kid in strangers]
        try:
            until(lambda: len(service.asked) == 3)
            assert fetched.lookup(KID).result(10) == PUBLIC
            assert not any(future.done() for future in waiting)
        finally:
            answer.set()
        assert all(refused(future) for future in waiting)

    @pytest.mark.parametrize("kid", ["x", "..", "A" * 36, f"{KID}x", "{" + KID + "}", KID.replace("-", "")])
    def test_only_uuids_are_asked_for(self, fetched: FetchedKeys, service: Service, kid: str) -> None:
        """What cannot be a key of the service never becomes a part of a path."""
        assert refused(fetched.lookup(kid))
        assert service.asked == []

    def test_absent_key_is_remembered(self, fetched: FetchedKeys, service: Service) -> None:
        """A key that the service does not have is not asked for again at once, and is later."""
        for _ in range(2):
            assert type(fetched.lookup(OTHER_KID).exception(10)) is WebhookRefused
        assert len(service.asked) == 1
        service.now += ABSENT + 1
        service.keys[OTHER_KID] = PUBLIC
        assert fetched.lookup(OTHER_KID).result(10) == PUBLIC

    def test_withdrawn_key(self, fetched: FetchedKeys, service: Service) -> None:
        """A key that was withdrawn is refused once its lifetime is over."""
        assert fetched.lookup(KID).result(10) == PUBLIC
        service.keys.clear()
        service.now += LIFETIME - 1
        assert fetched.lookup(KID).result(10) == PUBLIC
        service.now += 2
        assert refused(fetched.lookup(KID))
        assert refused(fetched.lookup(KID))
        assert len(service.asked) == 2

    def test_rotation(self, fetched: FetchedKeys, service: Service) -> None:
        """Old and new key are good while both are published."""
        assert fetched.lookup(KID).result(10) == PUBLIC
        service.keys[OTHER_KID] = STRANGER.public_key()
        assert fetched.lookup(OTHER_KID).result(10) == STRANGER.public_key()
        assert fetched.lookup(KID).result(10) == PUBLIC

    def test_stale_if_error(self, fetched: FetchedKeys, service: Service) -> None:
        """While the service cannot be asked, a known key works for a day, and it is asked once a minute."""
        assert fetched.lookup(KID).result(10) == PUBLIC
        service.failure = NoAnswer("down", sent=True)
        service.now += LIFETIME + 1
        for _ in range(10):
            assert fetched.lookup(KID).result(10) == PUBLIC
        assert len(service.asked) == 2
        service.now += RETRY + 1
        assert fetched.lookup(KID).result(10) == PUBLIC
        assert len(service.asked) == 3
        service.now += STALE
        assert refused(fetched.lookup(KID))
        service.asked.clear()
        for _ in range(10):
            assert refused(fetched.lookup(KID))  # it has become one of those that we do not have
        assert len(service.asked) == 2

    @pytest.mark.parametrize("failure", [NoAnswer("down", sent=True), RuntimeError("a bug")])
    def test_failure_is_a_refusal(
        self, fetched: FetchedKeys, service: Service, failure: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        """An unknown key that cannot be fetched is refused, without the kid in the log; a minute later it may work."""
        service.failure = failure
        with caplog.at_level(logging.DEBUG):
            assert isinstance(fetched.lookup(KID).exception(10), WebhookUndecided)
        assert caplog.records
        assert KID not in caplog.text
        service.failure = None
        service.now += 61
        assert fetched.lookup(KID).result(10) == PUBLIC


class TestPinned:
    def test_only_the_pinned_keys(self) -> None:
        """A pinned key is there at once; for any other name there is none."""
        pinned = PinnedKeys({KID: pem_of(KEY)})
        assert pinned.lookup(KID).result(0) == PUBLIC
        assert refused(pinned.lookup(OTHER_KID))

    def test_from_a_folder(self, tmp_path: Path) -> None:
        """Each file <kid>.pem is a key; other files are not looked at."""
        (tmp_path / f"{KID}.pem").write_text(pem_of(KEY))
        (tmp_path / "README").write_text("not a key")
        assert PinnedKeys.in_folder(tmp_path).lookup(KID).result(0) == PUBLIC

    def test_no_key_is_an_error(self, tmp_path: Path) -> None:
        """A folder without keys, or with something else, is refused at the start and not with each delivery."""
        with pytest.raises(InvalidSettings):
            PinnedKeys.in_folder(tmp_path)
        with pytest.raises(InvalidSettings):
            PinnedKeys({})
        (tmp_path / f"{KID}.pem").write_text("-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n")
        with pytest.raises(InvalidSettings, match=KID):
            PinnedKeys.in_folder(tmp_path)
        (tmp_path / f"{KID}.pem").write_bytes(b"\xff\xfe")
        with pytest.raises(InvalidSettings, match=KID):
            PinnedKeys.in_folder(tmp_path)


class TestReading:
    def test_both_forms(self) -> None:
        """PEM and the bare base64 of DER are the same key; so is PEM with other line ends."""
        bare = "".join(pem_of(KEY).splitlines()[1:-1])
        assert read_key(bare.encode()) == read_key(pem_of(KEY).encode()) == PUBLIC
        assert read_key("\r\n".join([bare[:100], bare[100:], ""]).encode()) == PUBLIC
        assert read_key(f"\r\n{pem_of(KEY)}".replace("\n", "\r\n").encode()) == PUBLIC
        assert pem(PUBLIC) == pem_of(KEY)
        assert len(fingerprint(PUBLIC)) == 64

    def test_other_keys_are_refused(self) -> None:
        """A short RSA key, another kind of key, a private key and anything else are refused with a ValueError."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        encoding = serialization.Encoding.PEM
        curve = ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(encoding, form)
        private = KEY.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        weak = rsa.generate_private_key(65537, 1024)  # noqa: S505 -- that is the point
        short = weak.public_key().public_bytes(encoding, form)
        bare = "".join(pem_of(KEY).splitlines()[1:-1]).encode()
        for data in (
            curve,
            private,
            short,
            bare[:50] + b"!" + bare[50:],
            b"",
            b"<html>",
            b"\xff\xfe",
            b"AAAA",
            b"-----BEGIN",
        ):
            with pytest.raises(ValueError, match=r"it is not|its size"):
                read_key(data)
