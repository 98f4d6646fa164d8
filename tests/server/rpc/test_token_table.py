"""The file of `tokens_file`: what is taken of it, and what is said of the rest."""

import hashlib
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from forwardpass.server.process import watched_files
from forwardpass.server.rpc.token_file import TokenFile, TokenFileError
from forwardpass.server.rpc.token_table import TABLE
from forwardpass.server.rpc.tokens import Permission, Token, digest_of
from forwardpass.server.scheduling.accounts import UNLIMITED, Quota

SECRET = "s3cr3t-s3cr3t"
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()
ENTRY = '[[tokens]]\nname = "a"\ntoken = "s3cr3t-s3cr3t"\npermissions = ["infer"]\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tokens.toml"


@pytest.mark.parametrize(
    "secret", [f'token = "{SECRET}"', f'sha256 = "{DIGEST}"', f'sha256 = "{DIGEST.upper()}"']
)
def test_an_entry_has_a_token_or_its_digest(path: Path, secret: str) -> None:
    path.write_text(f'[[tokens]]\nname = "a"\n{secret}\npermissions = ["read", "infer"]\n')
    (token,) = TokenFile(path, TABLE).current()
    permissions = frozenset({Permission.INFER, Permission.READ})
    assert token == Token("a", digest_of(SECRET.encode()), permissions)
    assert SECRET not in repr(token)
    assert repr(token.digest) not in repr(token)


def test_two_tokens_of_a_name_hold(path: Path) -> None:
    path.write_text(ENTRY + ENTRY.replace("s3cr3t-s3cr3t", "another-s3cr3t"))
    assert [token.name for token in TokenFile(path, TABLE).current()] == ["a", "a"]


def test_an_entry_may_have_bounds_which_are_its_name_s(path: Path) -> None:
    other = ENTRY.replace("s3cr3t-s3cr3t", "another-s3cr3t")
    bounds = "max_in_flight = 4\nmax_in_flight_bytes = 1_048_576\n"
    without = '[[tokens]]\nname = "b"\ntoken = "a-third-s3cr3t"\npermissions = ["infer"]\n'
    path.write_text(ENTRY + bounds + other + bounds + without)
    quotas = [token.quota for token in TokenFile(path, TABLE).current()]
    assert quotas == [Quota(4, 1 << 20), Quota(4, 1 << 20), UNLIMITED]
    path.write_text(f"{ENTRY}max_in_flight = 4")
    assert TokenFile(path, TABLE).current()[0].quota == Quota(4, None)


UNUSABLE = {
    "missing": (None, "cannot read .*: No such file"),
    "empty": ("", "tokens: Field required"),
    "no token": ("tokens = []", "tokens: List should have at least 1 item"),
    "no TOML": (f"{SECRET}\n", r"is not TOML, at line 1, column \d+$"),
    "half a file": (ENTRY[:-3], r"is not TOML, at"),
    "a key twice": (f"{SECRET} = 1\n{SECRET} = 2", "is not TOML, at"),
    "nested": ("tokens = " + "[" * 60_000, "is not TOML"),
    "a long number": (f"tokens = {'1' * 5_000}", "is not TOML"),
    "UTF-16": (ENTRY.encode("utf-16"), "has to be UTF-8"),
    "too long": (ENTRY + "#" * 70_000, "more than 65536 bytes"),
    "too many": (ENTRY * 65, "tokens: List should have at most 64 items"),
    "a table of tokens": (
        f'[tokens]\n{SECRET} = ["infer"]',
        "tokens: Input should be a valid list",
    ),
    "a token as a key": (
        f'{ENTRY}{SECRET} = ["infer"]',
        r"tokens\[0\]: there is an unknown key; the keys are name, token, .*, max_in_flight_bytes$",
    ),
    "a token on top": (f"{SECRET} = 1\n{ENTRY}", "unknown key; the keys are tokens$"),
    "no name": (ENTRY.replace('name = "a"', ""), r"tokens\[0\].name: Field required"),
    "a long name": (ENTRY.replace('"a"', f'"{"a" * 65}"'), "name: it takes 1 to 64 characters"),
    "a name of lines": (ENTRY.replace('"a"', r'"a\nb"'), "name: it takes 1 to 64 characters"),
    "a number": (ENTRY.replace('"s3cr3t-s3cr3t"', "1234567890"), "token: Input should be a valid"),
    "short": (ENTRY.replace("s3cr3t-s3cr3t", "s3cr3t"), "token: it has .* less than 8 characters"),
    "blanks": (ENTRY.replace("-s3cr3t", " s3cr3t"), "token: it has .* other than visible ASCII"),
    "neither": (ENTRY.replace('token = "s3cr3t-s3cr3t"', ""), "either a token or its sha256"),
    "both": (f'{ENTRY}sha256 = "{DIGEST}"', "either a token or its sha256"),
    "no digest": (f'{ENTRY}sha256 = "{DIGEST[1:]}"', "sha256: a SHA-256 has 64 hexadecimal digits"),
    "of nothing": (
        f'{ENTRY}sha256 = "{hashlib.sha256().hexdigest()}"',
        "sha256: it is the SHA-256 of nothing",
    ),
    "no permission": (ENTRY.replace('"infer"', ""), "permissions: Frozenset should have at least"),
    "unknown permission": (
        ENTRY.replace('"infer"', f'"{SECRET}"'),
        r"permissions\[0\]: Input should be 'infer', 'embed', 'generate', 'read' or 'manage'",
    ),
    "no call": (f"{ENTRY}max_in_flight = 0", "max_in_flight: Input should be greater than or"),
    "fewer": (f"{ENTRY}max_in_flight_bytes = -1", "max_in_flight_bytes: Input should be greater"),
    "half a call": (
        f"{ENTRY}max_in_flight = 1.5",
        "max_in_flight: Input should be a valid integer",
    ),
    "a bound as text": (
        f'{ENTRY}max_in_flight_bytes = "{SECRET}"',
        "max_in_flight_bytes: Input should be a valid integer$",
    ),
    "a switch": (f"{ENTRY}max_in_flight = true", "max_in_flight: Input should be a valid integer"),
    "two bounds of a name": (
        f"{ENTRY}max_in_flight = 1\n" + ENTRY.replace("s3cr3t-s3cr3t", "another-s3cr3t"),
        "two tokens of the name 'a' with different bounds; .* so both have to state the same",
    ),
    "the same twice": (ENTRY + ENTRY.replace('"a"', '"b"'), "has the same token twice"),
    "three of a name": (
        "".join(ENTRY.replace("s3cr3t-s3cr3t", f"s3cr3t-{i}") for i in range(3)),
        "has 3 tokens of the name 'a'; at most 2",
    ),
}
unusable = pytest.mark.parametrize(("content", "reason"), UNUSABLE.values(), ids=UNUSABLE.keys())


def spoil(path: Path, content: str | bytes | None) -> None:
    if content is None:
        path.unlink(missing_ok=True)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)


@unusable
def test_a_file_that_cannot_be_used_is_refused_and_not_quoted(
    path: Path, content: str | bytes | None, reason: str
) -> None:
    spoil(path, content)
    with pytest.raises(TokenFileError, match=reason) as caught:
        TokenFile(path, TABLE)
    assert str(path) in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert "\n" not in str(caught.value)


@unusable
def test_a_file_that_becomes_so_leaves_the_tokens_and_is_told_once(
    path: Path, monkeypatch: pytest.MonkeyPatch, content: str | bytes | None, reason: str
) -> None:
    monkeypatch.setattr(watched_files, "_LOOK_SECONDS", 0.0)
    path.write_text(ENTRY)
    file = TokenFile(path, TABLE)
    held = file.current()
    spoil(path, content)
    with capture_logs() as lines:
        assert [file.current() for _ in range(3)] == [held] * 3
    assert file.failing
    (line,) = lines
    assert (line["event"], line["log_level"]) == ("tokens_kept", "warning")
    assert "s3cr3t" not in str(line)
    path.write_text(ENTRY.replace('"a"', '"b"'))
    with capture_logs() as lines:
        assert [token.name for token in file.current()] == ["b"]
    assert [line["event"] for line in lines] == ["tokens"]
    assert not file.failing
