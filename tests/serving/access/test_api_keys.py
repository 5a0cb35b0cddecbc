"""API keys: generation, digests, list, revocation, reload of the key file."""

import hashlib
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from rossmann.cli import main
from rossmann.errors import SettingsError
from rossmann.logging_config import configure_logging
from rossmann.serving.access import api_keys
from rossmann.serving.access.access_control import access_summary
from rossmann.serving.access.api_keys import (
    ApiKeyStore,
    Permission,
    add_key,
    generate_key,
    key_digest,
    parse_setting,
    revoke_key,
)
from rossmann.serving.server import log_access_policy
from rossmann.settings import Settings, load_settings

App = Callable[..., FastAPI]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs ``rossmann keys ...`` over an empty folder: exit code, stdout, stderr."""
    monkeypatch.setenv("ROSSMANN_DATA_DIR", str(tmp_path))

    def keys_command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()  # discard earlier output
        code = main(["keys", *arguments])
        output = capsys.readouterr()
        return code, output.out, output.err

    return keys_command


@pytest.fixture
def reload_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checks the key file with every request."""
    monkeypatch.setattr(api_keys, "_RELOAD_SECONDS", 0.0)


def test_key_is_random_and_only_its_digest_is_stored() -> None:
    pairs = [generate_key(Permission.PREDICT, "shop") for _ in range(20)]
    assert len({key for key, _ in pairs}) == 20
    key, record = pairs[0]
    assert key.startswith("rsf_") and len(key) >= 4 + 43  # 32 bytes
    assert record.digest == hashlib.sha256(key.encode()).hexdigest() == key_digest(key)
    assert key not in record.file_line
    assert record.file_line.startswith(f"predict:{record.digest}:shop:20")
    assert parse_setting(f" {record.file_line} ,, {record.file_line}") == [record, record]


def test_former_permission_names_are_accepted() -> None:
    records = parse_setting(f"viewer:{'a' * 64},operator:{'B' * 64}")
    assert [(record.permission, record.digest[0]) for record in records] == [
        (Permission.PREDICT, "a"),
        (Permission.OPERATE, "b"),
    ]


@pytest.mark.parametrize(
    "text",
    ["secret", "predict:secret", "admin:" + "0" * 64, "predict:" + "g" * 64,
     "predict:" + "0" * 65, f"predict:{'0' * 64}:sec ret"],
)  # fmt: skip
def test_invalid_record_is_rejected_without_quoting_it(text: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="entry 1") as caught:
        parse_setting(text)
    assert "sec" not in str(caught.value).replace("security", "")
    file = tmp_path / "keys.txt"
    file.write_text(f"# ours\n\n{text}\n")
    file.chmod(0o600)
    with pytest.raises(SettingsError, match="line 3") as caught:
        ApiKeyStore.load("", file)
    assert "secret" not in str(caught.value)


def test_new_prints_the_key_and_the_line_for_the_setting(run: Run, make_app: App) -> None:
    code, key, message = run("new", "--right", "operate", "--name", "ci")
    key = key.strip()
    assert code == 0 and key.startswith("rsf_") and "\n" not in key
    line = next(text.strip() for text in message.splitlines() if "operate:" in text)
    assert "ROSSMANN_API_KEYS" in message and key not in message
    with TestClient(make_app(api_keys=line)) as client:
        assert client.get("/models").status_code == 401
        assert client.get("/models", headers={"X-API-Key": key}).status_code == 200


def test_keys_are_added_listed_and_revoked_while_the_service_runs(
    run: Run, make_app: App, reload_always: None, tmp_path: Path
) -> None:
    file = tmp_path / "keys.txt"

    def code_of(key: str = "") -> int:
        return client.get("/model/info", headers={"X-API-Key": key} if key else {}).status_code

    with TestClient(make_app()) as client:
        assert code_of() == 200  # open: no key exists
        key = run("new", "--name", "shop", "--file")[1].strip()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert key not in file.read_text() and key_digest(key) in file.read_text()
        assert (code_of(), code_of("rsf_other"), code_of(key)) == (401, 401, 200)
        other = run("new", "--name", "night", "--right", "operate", "--file")[1].strip()
        assert client.get("/models", headers={"X-API-Key": other}).status_code == 200
        listed = run("list")[1]
        assert "shop" in listed and "night" in listed and key not in listed + other
        assert run("revoke", "shop")[0] == 0
        assert (code_of(key), code_of(other)) == (401, 200)
        run("revoke", "night")
        assert code_of() == code_of(other) == 401  # no key is left, but the service stays closed
        file.unlink()
        assert code_of() == 401


def test_invalid_and_duplicate_names_are_rejected(run: Run) -> None:
    assert run("new", "--name", "shop", "--file")[0] == 0
    code, output, message = run("new", "--name", "shop", "--file")
    assert code == 1 and output == "" and "take another name" in message
    assert run("new", "--name", "two words")[0] == 1
    code, _, message = run("revoke", "chop")
    assert code == 1 and "there are: shop" in message
    assert run("new", "--name", "x", "--right", "all")[0] == 2


def test_invalid_file_keeps_the_loaded_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    key, record = generate_key(Permission.PREDICT, "shop")
    add_key(file, record)
    store = ApiKeyStore.load("", file, required=True)
    file.write_text("nonsense\n")
    with pytest.raises(SettingsError):
        store.reload()
    assert store.find(key_digest(key)) == record
    file.write_text(record.file_line)
    file.chmod(0o660)
    with pytest.raises(SettingsError, match="chmod 600"):
        store.reload()
    file.write_text("")
    file.chmod(0o600)
    store.reload()
    assert store.find(key_digest(key)) is None and store.requires_key


def test_revoke_keeps_the_other_lines_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "keys.txt"
    records = [generate_key(Permission.PREDICT, f"shop-{n}")[1] for n in range(3)]
    for record in records:
        add_key(file, record)
    file.write_text(file.read_text().replace("# API", "# a comment\n# API"))
    before = file.read_text().splitlines()
    assert revoke_key(file, "shop-1") == records[1]
    assert file.read_text().splitlines() == [line for line in before if "shop-1" not in line]
    assert list(tmp_path.iterdir()) == [file]


def test_access_summary_counts_keys_and_limits(tmp_path: Path) -> None:
    settings = load_settings(data_dir=tmp_path)
    assert access_summary(settings)[0]
    add_key(settings.keys_file, generate_key(Permission.OPERATE, "night")[1])
    keys = ",".join(generate_key(Permission.PREDICT, name)[1].file_line for name in "ab")
    settings = load_settings(data_dir=tmp_path, api_keys=keys, rate_limit="9 per minute,2/second")
    is_open, summary = access_summary(settings)
    assert not is_open
    assert summary == {
        "predict_keys": 2, "operate_keys": 1, "tokens_of": "nobody",
        "rate_limit": "9/minute, 2/second", "rate_limit_rows": "20000000/hour",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("host", "keys", "level"),
    [("127.0.0.1", "", "info"), ("0.0.0.0", "", "warning"), ("0.0.0.0", "a" * 64, "info")],
)
def test_open_service_on_all_interfaces_logs_a_warning(
    host: str, keys: str, level: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging("info", "json")
    settings = load_settings(data_dir=tmp_path, host=host, api_keys=keys and f"predict:{keys}")
    log_access_policy(settings)
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert event["level"] == level and ("open to all" in event["event"]) == (not keys)


@pytest.mark.parametrize(
    "values",
    [
        {"api_keys_file": "no-such-file"},
        {"rate_limit": "many"},
        {"rate_limit": "0/second"},
        {"rate_limit": "1/second,1/minute,1/hour,1/day,2/day"},
        {"rate_limit_rows": "x/minute"},
        {"rate_limit_store": "http://127.0.0.1"},
    ],
)
def test_invalid_setting_is_rejected_by_name_at_start(
    tmp_path: Path, values: dict[str, Any]
) -> None:
    with pytest.raises(SettingsError, match=f"ROSSMANN_{next(iter(values)).upper()}"):
        access_summary(load_settings(data_dir=tmp_path, **values))


@pytest.mark.parametrize(
    "values",
    [
        {"cors_origins": "good.example"},
        {"cors_origins": "https://good.example/path"},
        {"cors_origins": "https://*.example"},
        {"oidc_issuer": "http://provider.example", "oidc_audience": "us"},
        {"oidc_issuer": "https://provider.example"},
        {"oidc_issuer": "https://me:secret@provider.example", "oidc_audience": "us"},
    ],
)
def test_unsafe_setting_is_rejected(values: dict[str, Any]) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(**values)
    assert "secret" not in str(caught.value)


def test_redacted_settings_contain_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    record = generate_key(Permission.PREDICT, "shop")[1]
    monkeypatch.setenv("ROSSMANN_CORS_ORIGINS", "https://a.example, https://b.example:8443")
    settings: Settings = load_settings(
        api_keys=record.file_line,
        api_key="rsf_ours",
        rate_limit_store="redis://me:hunter2@host:6379/0",
    )
    assert settings.cors_origins == ("https://a.example", "https://b.example:8443")
    redacted = str(settings.redacted())
    assert not {word for word in ("rsf_ours", "hunter2", record.digest) if word in redacted}
