"""Callers and what they may do: the rules' file, tokens, signed claims, groups and models."""

import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st
from tests.fakes_server import FakeCall, FakeShelf

from penstock.auth.authority import (
    MOST_REMEMBERED,
    Authority,
    read_again,
    read_authority,
    token_digest,
)
from penstock.auth.caller import ANYONE, Allowance, Caller, permit_of
from penstock.auth.document import read_rules
from penstock.config_document import MAX_FILE_BYTES
from penstock.rpc import TABLE, Category, Rpc
from penstock.servicer_repository import RepositoryServicer
from penstock_protos import inference
from penstock_runtime.core import InferenceCore
from penstock_runtime.errors import InvalidArgument, PermissionDenied, Unauthenticated

ISSUER, AUDIENCE = "https://id.example", "penstock"
ADMIN = ["model-repository"]
TEAM = {"name": "team-a", "token": "a-token", "models": ["digits", "simple*"]}


def row(name: str) -> Rpc:
    return next(rpc for rpc in TABLE if rpc.name == name)


def authority(content: Mapping[str, Any], **more: Any) -> Authority:
    return Authority(read_rules(content, token_digest), **more)


def call(token: str | None) -> FakeCall:
    return FakeCall(metadata={} if token is None else {"authorization": f"Bearer {token}"})


@pytest.fixture(scope="module")
def key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@pytest.fixture
def key_file(key: ec.EllipticCurvePrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "issuer.pem"
    kind, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    path.write_bytes(key.public_key().public_bytes(kind, form))
    return path


def signed(key: Any, algorithm: str = "ES256", headers: Any = None, **claims: Any) -> str:
    content = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": "ann",
        "exp": time.time() + 600,
        "scope": "read infer",
    }
    content = {name: value for name, value in {**content, **claims}.items() if value is not None}
    return jwt.encode(content, key, algorithm, headers)


def issuer(key_file: Path, **more: Any) -> dict[str, Any]:
    grants = [{"claim": "scope", "value": "infer", "models": ["digits"]}]
    known = {"name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "algorithms": ["ES256"]}
    return {"jwt": [{**known, "public_key_file": str(key_file), "grants": grants, **more}]}


# -- tokens --------------------------------------------------------------------------------------


def test_a_token_opens_its_groups_and_its_models() -> None:
    """Inference, metadata and health are what a client needs, and what it gets unless told."""
    judge = authority({"tokens": [TEAM]})
    asked = call("a-token")

    judge.admit(row("ModelInfer"), asked)

    permit = permit_of(asked)
    assert [permit.sees(name) for name in ("digits", "simple_int8", "digits2", "other")] == [
        True,
        True,
        False,
        False,
    ]
    with pytest.raises(PermissionDenied, match="'team-a' may not use model 'other'"):
        permit.check("other")
    with pytest.raises(PermissionDenied, match="may not call the group 'model-repository'"):
        judge.admit(row("RepositoryModelLoad"), call("a-token"))


@pytest.mark.parametrize("given", [None, "", "a-toke", "a-token2", "A-TOKEN", "\udcff\ud800é"])
def test_whoever_is_not_known_is_told_so_and_counted(given: str | None) -> None:
    """What was wrong with a token is not told."""
    judge = authority({"tokens": [TEAM]})

    with pytest.raises(Unauthenticated) as error:
        judge.admit(row("ModelInfer"), call(given))

    assert "a-token" not in error.value.message
    assert judge.families()[0].samples[0].value == 1


def test_every_refusal_is_counted_once(key: ec.EllipticCurvePrivateKey, key_file: Path) -> None:
    """That of a group where the call comes in, that of a model wherever it is noticed."""
    judge = authority({"tokens": [TEAM], **issuer(key_file)})
    known = [call("a-token"), call(signed(key))]
    for asked in known:
        judge.admit(row("ModelInfer"), asked)

    for asked in known:
        assert not permit_of(asked).sees("other")
        with pytest.raises(PermissionDenied):
            permit_of(asked).check("other")
        with pytest.raises(PermissionDenied):
            judge.admit(row("LogSettings"), asked)

    assert [sample.value for sample in judge.families()[0].samples] == [0, 4]


def test_rules_that_are_too_long_are_refused_and_not_cut(tmp_path: Path) -> None:
    """What is cut off may be what an entry may not do."""
    path = tmp_path / "auth.yaml"
    padding = "x" * MAX_FILE_BYTES
    path.write_text(
        f"tokens:\n- name: a\n  token: b\n# {padding}\n  models: [digits]\n", encoding="utf-8"
    )

    with pytest.raises(InvalidArgument, match=f"expected at most {MAX_FILE_BYTES}"):
        read_authority(str(path))


def test_other_schemes_are_no_tokens_and_the_scheme_has_any_case() -> None:
    """RFC 9110: the scheme is not case-sensitive."""
    judge = authority({"tokens": [TEAM]})
    basic = FakeCall(metadata={"authorization": "Basic a-token"})
    shouted = FakeCall(metadata={"authorization": "BEARER  a-token "})

    judge.admit(row("ModelInfer"), shouted)

    with pytest.raises(Unauthenticated, match="send the metadata 'authorization: Bearer TOKEN'"):
        judge.admit(row("ModelInfer"), basic)


def test_an_open_group_asks_nobody() -> None:
    """Probes have no token; what is open is what the file says."""
    asked = call(None)

    authority({"tokens": [TEAM]}).admit(row("ServerLive"), asked)
    authority({"tokens": [TEAM], "open": ["inference"]}).admit(row("ModelInfer"), asked)

    assert permit_of(asked) is ANYONE
    with pytest.raises(Unauthenticated):
        authority({"tokens": [TEAM], "open": ["none"]}).admit(row("ServerLive"), asked)


def test_a_digest_is_as_good_as_its_token() -> None:
    """So that the file need not hold what opens the door."""
    entry = {"name": "b", "sha256": token_digest("b-token").hex().upper()}

    authority({"tokens": [entry]}).admit(row("ModelInfer"), call("b-token"))


def test_a_token_may_lie_in_a_file_of_its_own(tmp_path: Path) -> None:
    """As secrets are mounted, with a line's end."""
    path = tmp_path / "token"
    path.write_text("c-token\n")

    authority({"tokens": [{"name": "c", "token_file": str(path)}]}).admit(
        row("ModelInfer"), call("c-token")
    )


@pytest.mark.parametrize("method", ["load", "load_as", "unload"])
@pytest.mark.asyncio
async def test_what_an_ensemble_is_made_of_is_asked_for_too(method: str) -> None:
    """Where a call about the ensemble would load or unload it, or put it into another one."""
    shelf = FakeShelf()
    shelf.made_of = {"digits": ("digits_in", "secret"), "{}": ("secret",), "simple": ("simple_in",)}
    servicer = RepositoryServicer(InferenceCore(shelf), ThreadPoolExecutor(1))
    judge = authority({"tokens": [{**TEAM, "models": ["digits*", "simple*"], "groups": ADMIN}]})

    async def ask(model: str) -> None:
        asked = call("a-token")
        judge.admit(row("RepositoryModelLoad"), asked)
        if method == "unload":
            message: Any = inference.RepositoryModelUnloadRequest(model_name=model)
            message.parameters["unload_dependents"].bool_param = True
            await servicer.repository_model_unload(message.SerializeToString(), asked)
        else:
            message = inference.RepositoryModelLoadRequest(model_name=model)
            if method == "load_as":
                message.parameters["config"].string_param = "{}"
            await servicer.repository_model_load(message.SerializeToString(), asked)

    with pytest.raises(PermissionDenied, match="may not use model 'secret'"):
        await ask("digits")
    if method != "load_as":
        await ask("simple")

    assert "digits" not in [name for name, _ in (*shelf.loaded, *shelf.unloaded)]


# -- signed claims -------------------------------------------------------------------------------


def test_a_signed_claim_opens_what_it_is_granted(
    key: ec.EllipticCurvePrivateKey, key_file: Path
) -> None:
    """The name of a caller is the issuer's and the subject's."""
    asked = call(signed(key))

    authority(issuer(key_file)).admit(row("ModelInfer"), asked)

    assert permit_of(asked).caller == "corp:ann"
    assert permit_of(asked).sees("digits")
    assert not permit_of(asked).sees("simple")


@pytest.mark.parametrize("expires", [10**400, "9999999999", 1e308])
def test_a_claim_may_be_good_for_as_long_as_its_issuer_says(
    key: ec.EllipticCurvePrivateKey, key_file: Path, expires: Any
) -> None:
    """Even longer than a clock can tell."""
    judge = authority(issuer(key_file))

    judge.admit(row("ModelInfer"), call(signed(key, exp=expires)))


def test_a_subject_cannot_write_the_rest_of_its_line(
    key: ec.EllipticCurvePrivateKey, key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever chooses a name could otherwise have the log say that another one did it."""
    caplog.set_level("INFO", "penstock.audit")
    content = issuer(key_file)
    content["jwt"][0]["grants"][0]["groups"] = ["logging"]
    subject = "ann' from ipv4:10.0.0.1, not by 'bob"

    authority(content).admit(row("LogSettings"), call(signed(key, sub=subject)))

    (line,) = caplog.messages
    assert line.startswith(f'LogSettings by "corp:{subject}" from ipv4:127.0.0.1')


def test_a_claim_that_no_grant_names_allows_nothing(
    key: ec.EllipticCurvePrivateKey, key_file: Path
) -> None:
    """Being known is not being allowed; a list of values is looked through as well."""
    judge = authority(issuer(key_file))
    for scope in ("read", "inferred", None, 7, {"infer": 1}):
        with pytest.raises(PermissionDenied):
            judge.admit(row("ModelInfer"), call(signed(key, scope=scope)))

    judge.admit(row("ModelInfer"), call(signed(key, scope=["read", "infer"])))


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": time.time() - 3600},
        {"exp": None},
        {"nbf": time.time() + 3600},
        {"aud": "another"},
        {"aud": None},
        {"iss": "https://other.example"},
        {"iss": None},
        {"iss": ["https://id.example"]},
    ],
)
def test_a_claim_that_does_not_hold_is_not_believed(
    claims: dict[str, Any], key: ec.EllipticCurvePrivateKey, key_file: Path
) -> None:
    """Expired, not yet valid, for somebody else, by somebody else."""
    try:
        token = signed(key, **claims)
    except TypeError:
        # The library itself signs no such issuer.
        body = jwt.utils.base64url_encode(json.dumps({"iss": claims["iss"]}).encode()).decode()
        token = f"{signed(key).split('.')[0]}.{body}.{signed(key).split('.')[2]}"

    with pytest.raises(Unauthenticated):
        authority(issuer(key_file)).admit(row("ModelInfer"), call(token))


def test_the_algorithm_is_the_operators_choice(
    key: ec.EllipticCurvePrivateKey, key_file: Path
) -> None:
    """No signature at all, and a public key taken for a shared secret, are the classic ways in."""
    judge = authority(issuer(key_file))
    header = jwt.utils.base64url_encode(b'{"alg":"none","typ":"JWT"}').decode()
    forged = [
        f"{header}.{signed(key).split('.')[1]}.",
        signed("0" * 32, "HS256"),
        signed(ec.generate_private_key(ec.SECP256R1())),
    ]

    for token in forged:
        with pytest.raises(Unauthenticated):
            judge.admit(row("ModelInfer"), call(token))


def test_a_good_token_is_verified_once_and_forgotten_when_it_expires(
    key: ec.EllipticCurvePrivateKey, key_file: Path
) -> None:
    """Verifying costs more than a call; nothing outlives its time, the leeway included."""
    now = time.time()
    clock = [now]
    judge = authority(issuer(key_file, leeway_seconds=1), clock=lambda: clock[0])
    token = signed(key, exp=now + 60)
    judge.admit(row("ModelInfer"), call(token))

    clock[0] = now + 60.5
    judge.admit(row("ModelInfer"), call(token))
    clock[0] = now + 61.5

    with pytest.raises(Unauthenticated):
        judge.admit(row("ModelInfer"), call(token))


def test_remembered_tokens_are_bounded(key: ec.EllipticCurvePrivateKey, key_file: Path) -> None:
    """The oldest goes; whoever sends rubbish displaces nobody."""
    judge = authority(issuer(key_file))
    caller = Caller("x", ())
    for number in range(MOST_REMEMBERED + 5):
        judge._remember(number.to_bytes(32, "big"), caller)

    for number in range(5):
        with pytest.raises(Unauthenticated):
            judge.admit(row("ModelInfer"), call(f"a.b.{number}"))

    assert f"{MOST_REMEMBERED} remembered" in repr(judge)
    judge.admit(row("ModelInfer"), call(signed(key)))
    assert f"{MOST_REMEMBERED} remembered" in repr(judge)


def test_a_set_of_keys_is_asked_by_the_tokens_header(
    key: ec.EllipticCurvePrivateKey, tmp_path: Path
) -> None:
    """Keys are rotated so."""
    entry = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": [{**entry, "kid": "one", "use": "sig"}]}))
    content = issuer(path)
    del content["jwt"][0]["public_key_file"]
    content["jwt"][0]["jwks_file"] = str(path)
    judge = authority(content)

    judge.admit(row("ModelInfer"), call(signed(key, headers={"kid": "one"})))

    for headers in (None, {"kid": "two"}):
        with pytest.raises(Unauthenticated):
            judge.admit(row("ModelInfer"), call(signed(key, headers=headers)))


def test_a_shared_secret_lies_in_a_file(tmp_path: Path) -> None:
    """And its algorithms are those of secrets only."""
    secret = "s" * 40
    path = tmp_path / "secret"
    path.write_text(secret)
    content = issuer(path, algorithms=["HS256"])
    del content["jwt"][0]["public_key_file"]
    content["jwt"][0]["secret_file"] = str(path)

    authority(content).admit(row("ModelInfer"), call(signed(secret, "HS256")))

    content["jwt"][0]["algorithms"] = ["HS256", "RS256"]
    with pytest.raises(InvalidArgument, match="expected some of HS256, HS384, HS512"):
        authority(content)


@given(st.text(max_size=60), st.text(max_size=60), st.binary(max_size=40))
def test_no_token_raises_anything_but_a_refusal(first: str, second: str, third: bytes) -> None:
    """Whatever stands in it, signed or not."""
    body = jwt.utils.base64url_encode(third).decode()
    rules = {"tokens": [TEAM], "open": ["none"]}

    for token in (first, f"{first}.{second}.", f"{body}.{body}.{body}"):
        with pytest.raises(Unauthenticated):
            authority(rules).admit(row("ModelInfer"), call(token + "."))


# -- the file ------------------------------------------------------------------------------------

MISTAKES: list[tuple[Any, str]] = [
    ([], "expected a mapping"),
    ({"token": []}, "token is not known here"),
    ({"open": "health"}, "open: expected a list of texts"),
    ({"open": ["helth"]}, "open: expected some of health"),
    ({"tokens": {}}, "tokens: expected a list"),
    ({"tokens": [{"token": "x"}]}, r"tokens\[0\]: 'name' is missing"),
    ({"tokens": [{"name": "x"}]}, "expected exactly one of token, sha256, token_file"),
    ({"tokens": [{"name": "x", "token": "y", "sha256": "z"}]}, "expected exactly one of"),
    ({"tokens": [{"name": "x", "sha256": "hunter2"}]}, "expected 64 hexadecimal digits"),
    ({"tokens": [{"name": "x", "token": 7}]}, r"tokens\[0\].token: expected a text"),
    ({"tokens": [{"name": "x", "token": "t", "models": "a"}]}, "models: expected a list of texts"),
    ({"tokens": [{"name": "x", "token": "t", "groups": ["all"]}]}, "groups: expected some of"),
    ({"tokens": [{"name": "x", "token": "t", "modles": ["a"]}]}, "modles is not known here"),
    ({"tokens": [{"name": "x", "token_file": "/no/hunter2"}]}, "token_file: cannot be read"),
    ({"tokens": [TEAM, {"name": "team-a", "token": "z"}]}, "the same name stands in two entries"),
    ({"tokens": [TEAM, {"name": "z", "token": "a-token"}]}, "the same token stands in two"),
    ({"jwt": [{"name": "x"}]}, "expected exactly one of public_key_file"),
    ({"jwt": [{"name": "x", "public_key_file": "k"}]}, "algorithms: expected some of RS256"),
]


@pytest.mark.parametrize(("content", "told"), MISTAKES, ids=[text for _, text in MISTAKES])
def test_a_mistake_in_the_file_is_told_by_its_place(content: Any, told: str) -> None:
    """Names of settings are told, values are not: any of them may be a secret."""
    with pytest.raises(InvalidArgument, match=told) as error:
        authority(content)

    assert "hunter2" not in error.value.message
    assert "a-token" not in error.value.message


def test_a_key_that_cannot_be_read_ends_the_start(tmp_path: Path) -> None:
    """A file that is not there, and one that holds no key."""
    path = tmp_path / "none.pem"
    with pytest.raises(InvalidArgument, match="the key of issuer 'corp' cannot be read"):
        authority(issuer(path))

    path.write_text("hunter2")

    with pytest.raises(InvalidArgument, match="the key of issuer 'corp' cannot be read") as error:
        authority(issuer(path))
    assert "hunter2" not in error.value.message


def test_a_file_that_is_read_again_judges_from_then_on(tmp_path: Path) -> None:
    """One with a mistake changes nothing."""
    path = tmp_path / "auth.yaml"
    path.write_text("tokens: [{name: a, token: first}]")
    judge = read_authority(str(path))
    assert judge is not None

    path.write_text("tokens: [{name: a, token: second}]")
    read_again(judge, str(path))
    judge.admit(row("ModelInfer"), call("second"))
    with pytest.raises(Unauthenticated):
        judge.admit(row("ModelInfer"), call("first"))

    path.write_text("tokens: [{name: a, tokn: third}]")
    read_again(judge, str(path))
    judge.admit(row("ModelInfer"), call("second"))


def test_without_a_file_there_is_nobody_to_ask() -> None:
    """And so nothing is asked."""
    assert read_authority("") is None


def test_permits_of_several_allowances_add_up() -> None:
    """A caller with two grants has what both give, group by group."""
    caller = Caller(
        "x",
        [
            Allowance(frozenset({Category.INFERENCE}), ("a",)),
            Allowance(frozenset({Category.INFERENCE, Category.STATISTICS}), ("b?",)),
        ],
    )

    assert [caller.permit(Category.INFERENCE).sees(name) for name in ("a", "b1", "b")] == [
        True,
        True,
        False,
    ]
    assert not caller.permit(Category.STATISTICS).sees("a")
    with pytest.raises(PermissionDenied):
        caller.permit(Category.TRACE)
