"""Signatures: what is taken, and at least sixty ways in which something else is refused."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.webhooks import (
    BODY,
    HEADER,
    ID,
    KEY,
    KID,
    OTHER_KID,
    STRANGER,
    UNENCODED,
    b64,
    by_library,
    delivery,
    library_takes,
    pem_of,
    sign_input,
    token,
    unencoded,
)
from tl_orchestration.errors import InvalidSettings, WebhookRefused
from tl_orchestration.secret import Secret
from tl_orchestration.webhooks.envelope import LONGEST, read_envelope
from tl_orchestration.webhooks.keys import FetchedKeys, PinnedKeys
from tl_orchestration.webhooks.signatures import Delivery, HmacVerifier, JwsVerifier

PINNED = PinnedKeys({KID: pem_of(KEY)})


class CountedKeys:
    """Pinned keys that remember who asked for what, through the cache that a receiver uses."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self._keys = FetchedKeys(self._fetch)

    def _fetch(self, kid: str) -> RSAPublicKey | None:
        self.asked.append(kid)
        return KEY.public_key() if kid == KID else None

    def lookup(self, kid: str) -> Future[RSAPublicKey]:
        """As the cache's."""
        return self._keys.lookup(kid)


def verify(one: Delivery, *, allow_unencoded: bool = False) -> None:
    """Verify with the pinned key."""
    JwsVerifier(PINNED, allow_unencoded=allow_unencoded).begin(one).finish()


def with_header(**members: Any) -> str:
    """A token, validly signed, whose header has other members; None leaves one out."""
    header = {name: value for name, value in {**HEADER, **members}.items() if value is not None}
    return token(header)


def swapped(segment: int, change: Callable[[str], str]) -> str:
    """A genuine token with one segment changed."""
    segments = token().split(".")
    segments[segment] = change(segments[segment])
    return ".".join(segments)


def other_unused_bits() -> str:
    """A genuine token whose last letter has other unused bits: the same bytes, another text."""
    value = token()
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return value[:-1] + alphabet[alphabet.index(value[-1]) ^ 1]


def plain_alphabet() -> str:
    """A genuine token in the alphabet of ordinary base64, for a body whose signature has such letters."""
    value = token()
    assert {"-", "_"} & set(value.rpartition(".")[2])
    return value.replace("-", "+").replace("_", "/")


def hs256() -> str:
    """Signed by HMAC with the public key's text as the secret: the confusion of algorithms."""
    protected = b64(json.dumps({**HEADER, "alg": "HS256"}).encode())
    mac = hmac.new(pem_of(KEY).encode(), f"{protected}.{b64(BODY)}".encode(), hashlib.sha256)
    return f"{protected}..{b64(mac.digest())}"


def rs512() -> str:
    """Genuine, by a longer hash."""
    protected = b64(json.dumps({**HEADER, "alg": "RS512"}).encode())
    return f"{protected}..{sign_input(f'{protected}.{b64(BODY)}'.encode(), algorithm=hashes.SHA512())}"


def sha512_as_rs256() -> str:
    """Says RS256, and is signed over SHA-512."""
    protected = b64(json.dumps(HEADER).encode())
    return f"{protected}..{sign_input(f'{protected}.{b64(BODY)}'.encode(), algorithm=hashes.SHA512())}"


def pss(algorithm: str) -> str:
    """Signed with another padding."""
    protected = b64(json.dumps({**HEADER, "alg": algorithm}).encode())
    signature = KEY.sign(
        f"{protected}.{b64(BODY)}".encode(), padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256()
    )
    return f"{protected}..{b64(signature)}"


JWK = {"kty": "RSA", "n": b64(STRANGER.public_key().public_numbers().n.to_bytes(256, "big")), "e": "AQAB"}
EVIL = "https://evil.example/keys"

ATTACKS: dict[str, Callable[[], Delivery]] = {
    # the envelope
    "no header": lambda: delivery(),
    "empty header": lambda: delivery(""),
    "two headers": lambda: Delivery(BODY, (("JWS-SIGNATURE", token()), ("jws-signature", token()))),
    "one segment": lambda: delivery(token().replace(".", "")),
    "two segments": lambda: delivery(token().replace("..", ".")),
    "four segments": lambda: delivery(token() + "."),
    "five segments": lambda: delivery(token() + ".a.b"),
    "dots only": lambda: delivery(".."),
    "attached payload": lambda: delivery(token(middle=b64(BODY))),
    "attached payload, other body": lambda: delivery(token(middle=b64(BODY)), body=b'{"workflowId":"other"}'),
    "9 KiB": lambda: delivery(token({**HEADER, "x": "y" * 9000})),
    "10 KB kid": lambda: delivery(with_header(kid="a" * 10_000)),
    "1 MB": lambda: delivery("a" * 1_000_000),
    "space inside": lambda: delivery(swapped(2, lambda text: text[:10] + " " + text[10:])),
    "line break inside": lambda: delivery(swapped(2, lambda text: text[:10] + "\r\n" + text[10:])),
    "NUL inside": lambda: delivery(swapped(2, lambda text: text[:10] + "\0" + text[10:])),
    "letters of another script": lambda: delivery(swapped(2, lambda text: "Ａ" + text[1:])),
    "padded header": lambda: delivery(swapped(0, lambda text: text + "=")),
    "padded signature": lambda: delivery(swapped(2, lambda text: text + "==")),
    "unused bits": lambda: delivery(other_unused_bits()),
    "plain alphabet": lambda: delivery(plain_alphabet()),
    "Bearer before it": lambda: delivery("Bearer " + token()),
    "header not JSON": lambda: delivery(token("{")),
    "header a list": lambda: delivery(token("[]")),
    "header a text": lambda: delivery(token('"RS256"')),
    "header not UTF-8": lambda: delivery(token('{"alg":"RS256","kid":"\udc80"}')),
    "header as UTF-16": lambda: delivery(swapped(0, lambda _: b64(json.dumps(HEADER).encode("utf-16")))),
    "header with BOM": lambda: delivery(token("\ufeff" + json.dumps(HEADER))),
    "header with NaN": lambda: delivery(token(json.dumps(HEADER)[:-1] + ', "x": NaN}')),
    "header with 1e999": lambda: delivery(token(json.dumps(HEADER)[:-1] + ', "x": 1e999}')),
    "header nested deeply": lambda: delivery(token(json.dumps(HEADER)[:-1] + f', "x": {"[" * 2000}{"]" * 2000}}}')),
    "alg twice": lambda: delivery(token(f'{{"alg":"none","alg":"RS256","kid":"{KID}"}}')),
    "kid twice": lambda: delivery(token(f'{{"alg":"RS256","kid":"{OTHER_KID}","kid":"{KID}"}}')),
    # algorithms
    "no alg": lambda: delivery(with_header(alg=None)),
    "none": lambda: delivery(with_header(alg="none")),
    "none, unsigned": lambda: delivery(b64(json.dumps({**HEADER, "alg": "none"}).encode()) + ".."),
    "nOnE": lambda: delivery(with_header(alg="nOnE")),
    "rs256": lambda: delivery(with_header(alg="rs256")),
    "alg a list": lambda: delivery(with_header(alg=["RS256"])),
    "alg a number": lambda: delivery(with_header(alg=256)),
    "HS256 with the public key": lambda: delivery(hs256()),
    "RS512": lambda: delivery(rs512()),
    "RS256 over SHA-512": lambda: delivery(sha512_as_rs256()),
    "PS256": lambda: delivery(pss("PS256")),
    "PSS as RS256": lambda: delivery(pss("RS256")),
    "ES256": lambda: delivery(with_header(alg="ES256")),
    # extensions
    "b64 false": lambda: delivery(unencoded(UNENCODED)),
    "b64 false without crit": lambda: delivery(unencoded({**HEADER, "b64": False})),
    "b64 true": lambda: delivery(with_header(b64=True)),
    "crit empty": lambda: delivery(with_header(crit=[])),
    "crit unknown": lambda: delivery(with_header(crit=["exp"], exp=1)),
    "crit b64, not there": lambda: delivery(with_header(crit=["b64"])),
    "crit a text": lambda: delivery(with_header(crit="b64", b64=False)),
    "zip": lambda: delivery(with_header(zip="DEF")),
    "enc": lambda: delivery(with_header(enc="A128GCM")),
    # keys
    "no kid": lambda: delivery(with_header(kid=None)),
    "kid empty": lambda: delivery(with_header(kid="")),
    "kid a number": lambda: delivery(with_header(kid=7)),
    "kid another": lambda: delivery(with_header(kid=OTHER_KID)),
    "kid a path": lambda: delivery(with_header(kid="../../evil")),
    "kid an encoded path": lambda: delivery(with_header(kid="%2e%2e%2fevil")),
    "kid two dots": lambda: delivery(with_header(kid="..")),
    "kid a URL": lambda: delivery(with_header(kid=EVIL)),
    "kid a host": lambda: delivery(with_header(kid="//evil.example/x")),
    "kid at a host": lambda: delivery(with_header(kid="x@evil.example")),
    "kid with a query": lambda: delivery(with_header(kid=f"{KID}?pem=false")),
    "kid with CRLF": lambda: delivery(with_header(kid=f"{KID}\r\nHost: evil.example")),
    "kid with a line end": lambda: delivery(with_header(kid=f"{KID}\n")),
    "kid with NUL": lambda: delivery(with_header(kid=f"{KID}\0")),
    "kid in digits of another script": lambda: delivery(with_header(kid=KID.replace("0", "٠"))),
    "embedded jwk": lambda: delivery(token({**HEADER, "jwk": JWK}, key=STRANGER)),
    "embedded jwk, no kid": lambda: delivery(token({"alg": "RS256", "jwk": JWK}, key=STRANGER)),
    "jku": lambda: delivery(token({**HEADER, "jku": EVIL}, key=STRANGER)),
    "genuine with jku": lambda: delivery(with_header(jku=EVIL)),
    "x5u": lambda: delivery(token({**HEADER, "x5u": EVIL}, key=STRANGER)),
    "x5c": lambda: delivery(token({**HEADER, "x5c": ["MIIB"]}, key=STRANGER)),
    "another's signature": lambda: delivery(token(key=STRANGER)),
    # bytes
    "no signature": lambda: delivery(swapped(2, lambda _: "")),
    "short signature": lambda: delivery(swapped(2, lambda _: b64(b"\1" * 255))),
    "long signature": lambda: delivery(swapped(2, lambda _: b64(b"\0" * 257))),
    "zero signature": lambda: delivery(swapped(2, lambda _: b64(b"\0" * 256))),
    "signature of one": lambda: delivery(swapped(2, lambda _: b64(b"\0" * 255 + b"\1"))),
    "changed signature": lambda: delivery(swapped(2, lambda text: ("A" if text[0] != "A" else "B") + text[1:])),
    "changed header": lambda: delivery(swapped(0, lambda _: b64(json.dumps({**HEADER, "typ": "JOSE"}).encode()))),
    "body and a byte": lambda: delivery(token(), body=BODY + b" "),
    "body less a byte": lambda: delivery(token(), body=BODY[:-1]),
    "empty body": lambda: delivery(token(), body=b""),
    "the same JSON, other bytes": lambda: delivery(token(), body=json.dumps(json.loads(BODY), indent=1).encode()),
    "body as base64": lambda: delivery(token(), body=b64(BODY).encode()),
    "another body": lambda: delivery(token(body=b'{"workflowId":"other"}')),
}


def test_set_is_large_enough() -> None:
    """The set of attacks has at least sixty members."""
    assert len(ATTACKS) >= 60


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_is_refused(name: str) -> None:
    """It is refused with the one error, and the only key that anybody is asked for has the form of a uuid."""
    keys = CountedKeys()
    with pytest.raises(WebhookRefused) as caught:
        JwsVerifier(keys).begin(ATTACKS[name]()).finish()
    assert set(keys.asked) <= {KID, OTHER_KID}
    assert "evil" not in str(caught.value)
    assert KID not in str(caught.value)


@pytest.mark.parametrize("body", [BODY, b"", b"\xff\x00", b"{}", b"a" * 100_000])
def test_signature_of_another_library_is_taken(body: bytes) -> None:
    """What another library signs is taken, whatever the bytes."""
    verify(delivery(by_library(body), body=body))


@pytest.mark.parametrize("typ", ["JWT", "JOSE", None])
def test_own_members_do_not_matter(typ: str | None) -> None:
    """Members that change nothing of how it is verified are let be."""
    verify(delivery(with_header(typ=typ, iat=1)))


def test_header_name_has_no_case() -> None:
    """The header is found in whatever case it arrives, and with the spaces that HTTP allows around it."""
    verify(Delivery(BODY, (("jWs-SiGnAtUrE", f" {token()}\t"),)))


def test_unencoded_payload_is_taken_where_it_is_allowed() -> None:
    """RFC 7797's form is taken only on demand, and then its body is as much proven as any."""
    verify(delivery(unencoded(UNENCODED)), allow_unencoded=True)
    verify(delivery(token()), allow_unencoded=True)
    for header in ({**HEADER, "b64": False}, {**UNENCODED, "crit": ["b64", "exp"]}, {**UNENCODED, "b64": True}):
        with pytest.raises(WebhookRefused):
            verify(delivery(unencoded(header)), allow_unencoded=True)
    with pytest.raises(WebhookRefused):
        verify(delivery(unencoded(UNENCODED), body=BODY + b" "), allow_unencoded=True)


@pytest.mark.parametrize(
    "kid",
    ["", ".", "..", "...", "a" * 65, "a b", "a/b", "a%2fb", "a\n", "\n", "ä", "a?b", "a#b", "a@b", "a\\b", 7, None],
)
def test_name_of_a_key_is_refused_before_it_is_looked_up(kid: object) -> None:
    """Whatever holds the keys, it is asked only for names that are safe in a path, in a file's name and in a log."""
    with pytest.raises(WebhookRefused, match="names no usable key"):
        read_envelope(with_header(kid=kid), allow_unencoded=False)


@pytest.mark.parametrize("kid", ["a", "a" * 64, "A.b_c-9", KID])
def test_usable_names(kid: str) -> None:
    """Letters, digits, dots, dashes and underscores, up to 64 of them."""
    assert read_envelope(with_header(kid=kid), allow_unencoded=False).kid == kid


def test_longest_header() -> None:
    """At the bound a header is read, one letter above it is not."""
    padding = next(size for size in range(4000, 8000) if len(with_header(x="y" * size)) == LONGEST)
    assert read_envelope(with_header(x="y" * padding), allow_unencoded=False).kid == KID
    with pytest.raises(WebhookRefused, match="too long"):
        read_envelope(with_header(x="y" * (padding + 1)), allow_unencoded=False)


@given(st.text(max_size=200), st.binary(max_size=50))
def test_nothing_else_is_raised(value: str, body: bytes) -> None:
    """Whatever the header, it is refused with the one error and with no other."""
    with pytest.raises(WebhookRefused):
        verify(delivery(value, body=body))


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=200))
def test_two_libraries_agree(body: bytes, other: bytes) -> None:
    """What one library signs the other takes, for the very same bytes and for no others."""
    ours, theirs = token(body=body), by_library(body)
    for value in (ours, theirs):
        verify(delivery(value, body=body))
        assert library_takes(value, body, pem_of(KEY))
        if other != body:
            assert not library_takes(value, other, pem_of(KEY))
            with pytest.raises(WebhookRefused):
                verify(delivery(value, body=other))


@given(st.data())
def test_no_other_bytes_are_taken(data: st.DataObject) -> None:
    """A genuine token with any one letter changed is refused."""
    value = TOKEN
    index = data.draw(st.integers(0, len(value) - 1))
    letter = data.draw(st.characters(codec="latin-1").filter(lambda other: other != value[index]))
    with pytest.raises(WebhookRefused):
        # Spaces around the value are HTTP's, so that they must not take the place of its ends.
        verify(delivery(f".{value}" if letter in " \t" else value[:index] + letter + value[index + 1 :]))


TOKEN = token()


class TestHmac:
    SECRET = "whsec_planted"

    def sign(self, body: bytes = BODY, secret: str = SECRET) -> str:
        return hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()

    def take(self, value: str | None, body: bytes = BODY, header: str = "X-B3OS-Signature", **options: Any) -> None:
        headers = () if value is None else ((header, value),)
        HmacVerifier([Secret(self.SECRET)], **options).begin(Delivery(body, headers)).finish()

    @pytest.mark.parametrize("prefix", ["", "sha256="])
    def test_documented_forms(self, prefix: str) -> None:
        """Lower-case hexadecimal digits are taken, with and without the prefix."""
        self.take(prefix + self.sign())

    def test_header_name_is_a_setting(self) -> None:
        """A deployment with another header is met by a setting, and then only that header counts."""
        one = HmacVerifier([Secret(self.SECRET)], header="X-Other")
        one.begin(Delivery(BODY, (("x-other", self.sign()),))).finish()
        with pytest.raises(WebhookRefused):
            one.begin(Delivery(BODY, (("x-b3os-signature", self.sign()),)))

    def test_rotation(self) -> None:
        """While a secret is rotated, both are taken."""
        both = HmacVerifier([Secret("new"), Secret(self.SECRET)])
        both.begin(Delivery(BODY, (("x-b3os-signature", self.sign()),))).finish()
        both.begin(Delivery(BODY, (("x-b3os-signature", self.sign(secret="new")),))).finish()

    @pytest.mark.parametrize(
        "change",
        [
            str.upper,
            lambda text: "",
            lambda text: text[:-1],
            lambda text: text + "0",
            lambda text: "sha256=sha256=" + text,
            lambda text: "sha1=" + text,
            lambda text: "SHA256=" + text,
            lambda text: "0" * 64,
            lambda text: "é" + text[1:],
            lambda text: text[::-1],
        ],
    )
    def test_other_forms_are_refused(self, change: Callable[[str], str]) -> None:
        """Anything else than these forms of exactly this value is refused."""
        with pytest.raises(WebhookRefused):
            self.take(change(self.sign()))

    def test_other_bytes_are_refused(self) -> None:
        """A changed body, another secret, a missing or a doubled header are refused."""
        for value, body in ((self.sign(), BODY + b" "), (self.sign(secret="other"), BODY), (None, BODY)):
            with pytest.raises(WebhookRefused):
                self.take(value, body)
        twice = ("x-b3os-signature", self.sign())
        with pytest.raises(WebhookRefused):
            HmacVerifier([Secret(self.SECRET)]).begin(Delivery(BODY, (twice, twice)))

    @pytest.mark.parametrize("secrets", [[], [Secret("")]])
    def test_secret_must_be_there(self, secrets: list[Secret]) -> None:
        """A receiver without a secret, or with an empty one, is not set up at all."""
        with pytest.raises(InvalidSettings):
            HmacVerifier(secrets)

    def test_secret_is_not_shown(self) -> None:
        """Nothing that could be logged shows the secret or a signature."""
        one = HmacVerifier([Secret(self.SECRET)])
        check = one.begin(Delivery(BODY, (("x-b3os-signature", "planted"),)))
        with pytest.raises(WebhookRefused) as caught:
            check.finish()
        shown = f"{one!r} {check!r} {caught.value!r} {delivery(token())!r} {Delivery(BODY, ())!r}"
        assert "planted" not in shown
        assert ID not in shown
