from importlib.metadata import version
from pathlib import Path

import pytest

from forwardpass.server.settings import Settings, SettingsError
from forwardpass.server.settings_sources import load


def test_defaults_listen_on_loopback() -> None:
    settings = load(["models"])
    assert settings.models == Path("models")
    assert (settings.host, settings.port) == ("127.0.0.1", 8001)
    assert (settings.metrics_host, settings.metrics_port) == ("127.0.0.1", 8002)
    assert not settings.reflection


def test_a_flag_wins_over_the_environment_over_the_file_over_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('port = 1\nmetrics_port = 1\nmax_in_flight = 1\nverify = "require"\n')
    monkeypatch.setenv("FORWARDPASS_PORT", "2")
    monkeypatch.setenv("FORWARDPASS_METRICS_PORT", "2")
    settings = load(["--config", str(file), "--port", "3", "models", "--reflection"])
    assert (settings.port, settings.metrics_port, settings.max_in_flight) == (3, 2, 1)
    assert settings.verify == "require"
    assert settings.drain_seconds == 30
    assert settings.reflection
    monkeypatch.setenv("FORWARDPASS_CONFIG", str(file))
    assert load(["models"]).max_in_flight == 1


def test_an_unknown_setting_names_the_nearest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        load(["models", "--max-inflight=3"])
    assert caught.value.code == 2
    assert "(did you mean '--max-in-flight'?)" in capsys.readouterr().err

    file = tmp_path / "settings.toml"
    file.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match=r"unknown setting 'prot' \(did you mean 'port'\?\)"):
        load(["models", "--config", str(file)])

    monkeypatch.setenv("FORWARDPASS_DRAIN_SECOND", "1")
    with pytest.raises(SettingsError, match="did you mean 'FORWARDPASS_DRAIN_SECONDS'"):
        load(["models"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["models", "--port", "70000"], "setting 'port': Input should be less than or equal"),
        (["models", "--port", "x"], "setting 'port': .*got 'x'"),
        (["models", "--max-in-flight", "-1"], "setting 'max_in_flight': .*greater than"),
        (["models", "--config", "/nowhere.toml"], "cannot read /nowhere.toml"),
    ],
)
def test_a_wrong_value_is_named(arguments: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        load(arguments)


@pytest.mark.parametrize("setting", ["host", "metrics_host"])
@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("::1", "::1"),
        ("[::1]", "::1"),
        ("[::]", "::"),
        ("[fe80::1%eth0]", "fe80::1%eth0"),
        ("0.0.0.0", "0.0.0.0"),
        ("localhost", "localhost"),
    ],
)
def test_t134_an_address_is_written_with_brackets_or_without(
    setting: str, given: str, taken: str
) -> None:
    assert getattr(load(["models", f"--{setting.replace('_', '-')}", given]), setting) == taken


@pytest.mark.parametrize("setting", ["host", "metrics_host"])
@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "it is empty"),
        ("[]", "it is empty"),
        ("localhost:8001", "without a port"),
        ("[::1]:8001", "without a port"),
        ("[localhost]", "without a port"),
        ("::x", "without a port"),
    ],
)
def test_what_is_no_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, setting: str, given: str, message: str
) -> None:
    monkeypatch.setenv(f"FORWARDPASS_{setting.upper()}", given)
    with pytest.raises(SettingsError, match=f"setting '{setting}': .*{message}"):
        load(["models"])


def test_a_token_is_given_once() -> None:
    given = ["models", "--management-token", "s3cret", "--management-token-file", "tokens"]
    with pytest.raises(SettingsError, match="'management_token_file' do not go together") as caught:
        load(given)
    assert "s3cret" not in str(caught.value)
    assert load([given[0], *given[3:]]).management_token_file == Path("tokens")


@pytest.mark.parametrize("name", ["management_token", "management_token_file"])
def test_a_file_of_tokens_is_the_one_place_of_tokens(name: str) -> None:
    given = ["models", "--tokens-file", "tokens.toml", f"--{name.replace('_', '-')}", "s3cret"]
    reason = f"'tokens_file' and '{name}' do not go together: .* permission manage"
    with pytest.raises(SettingsError, match=reason) as caught:
        load(given)
    assert "s3cret" not in str(caught.value)
    assert load(given[:3]).tokens_file == Path("tokens.toml")


@pytest.mark.parametrize("name", ["tokens_without_tls", "health_needs_token"])
def test_what_is_for_a_file_of_tokens_takes_one(name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    with pytest.raises(SettingsError, match=f"'{name}' is for tokens of a tokens_file"):
        load(["models", flag])
    assert getattr(load(["models", flag, "--tokens-file", "tokens.toml"]), name)


def test_metrics_by_tls_take_a_certificate() -> None:
    with pytest.raises(SettingsError, match="'metrics_tls' takes a certificate and its key"):
        load(["models", "--metrics-tls"])
    assert load(["models", "--metrics-tls", "--tls-certificate", "c", "--tls-key", "k"]).metrics_tls


def test_no_message_shows_a_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for mistyped in (["--management-tokn", "5318008"], ["--management-tokn=5318008"]):
        with pytest.raises(SystemExit):
            load(["models", *mistyped])
    file = tmp_path / "settings.toml"
    file.write_text("management_token = 5318008\n")
    with pytest.raises(SettingsError, match="setting 'management_token': ") as caught:
        load(["models", "--config", str(file)])
    assert "5318008" not in str(caught.value)
    monkeypatch.setenv("FORWARDPASS_MANAGEMENT_TOKEN", "5318008")
    assert "5318008" not in repr(load(["models"]))
    with pytest.raises(SystemExit):
        load(["--help"])
    printed = capsys.readouterr()
    assert "(did you mean '--management-token'?)" in printed.err
    assert "5318008" not in printed.err + printed.out


@pytest.mark.parametrize(
    ("data", "told"),
    [
        ("port = 1".encode("utf-16"), "it is UTF-16"),
        (b"\xff\xfe", "it is UTF-16"),
        ('log_level = "é"'.encode("latin-1"), "byte 13 is not"),
    ],
)
def test_a_file_of_another_encoding_is_told_by_its_name(
    tmp_path: Path, data: bytes, told: str
) -> None:
    (tmp_path / "settings.toml").write_bytes(data)
    with pytest.raises(SettingsError, match=f"has to be UTF-8, as all TOML, but {told}"):
        load(["models", "--config", str(tmp_path / "settings.toml")])


def test_what_kubernetes_sets_for_a_service_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDPASS_PORT", "tcp://10.0.0.1:8001")
    monkeypatch.setenv("FORWARDPASS_PORT_8001_TCP_ADDR", "10.0.0.1")
    with pytest.raises(SettingsError, match=r"Kubernetes sets it .* enableServiceLinks: false"):
        load(["models"])


def test_variables_of_the_client_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDPASS_SERVER", "127.0.0.1:1")
    load(["models"])


def test_the_readme_has_every_setting() -> None:
    readme = (Path(__file__).parents[2] / "server" / "README.md").read_text(encoding="utf-8")
    for name in Settings.model_fields:
        assert f"`{name}`" in readme, name


def test_the_version_and_check_are_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for flag, told in (
        ("--version", version("forwardpass")),
        ("--help", "forwardpass-serve check"),
    ):
        with pytest.raises(SystemExit) as ended:
            load([flag])
        assert ended.value.code == 0
        assert told in capsys.readouterr().out
