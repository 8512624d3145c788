"""Where settings come from, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from codeact.errors import UsageError
from codeact.settings import ENVIRONMENT, load


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("CODEACT_CONFIG", *ENVIRONMENT.values()):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    path = tmp_path / "codeact" / "config.toml"
    path.parent.mkdir()
    return path


def test_a_flag_goes_before_the_environment_before_the_file_before_the_default(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('model = "of-file"\nmax_turns = 7\ntimeout = 5\n')
    monkeypatch.setenv("CODEACT_MODEL", "of-environment")
    monkeypatch.setenv("CODEACT_TIMEOUT", "6.5")
    monkeypatch.setenv("CODEACT_SANDBOX", "")  # as good as not set
    effective = load({"timeout": 7.5, "model": None})
    assert effective.settings.model == "of-environment"
    assert (effective.settings.max_turns, effective.settings.timeout) == (7, 7.5)
    assert effective.origins == {"model": "CODEACT_MODEL", "max_turns": str(file), "timeout": "flag"}
    assert effective.shown()["sandbox"] == ("local", "default")


def test_secrets_are_masked(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("OPENAI_BASE_URL", "https://me:secret@host/v1")
    effective = load()
    assert "secret" not in repr(effective) or "me:secret" in repr(effective.settings.base_url)
    assert effective.shown()["api_key"] == ("********", "OPENAI_API_KEY")
    assert effective.shown()["base_url"] == ("https://********@host/v1", "OPENAI_BASE_URL")
    assert effective.settings.api_key is not None
    assert effective.settings.api_key.get_secret_value() == "sk-secret"


def test_names_come_as_a_list_or_joined(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (load().settings.network, load().settings.allow_net) == ("none", ())
    file.write_text('allow_net = ["a.org", "b.org, c.org"]\n')
    assert load().settings.allow_net == ("a.org", "b.org", "c.org")
    monkeypatch.setenv("CODEACT_ALLOW_NET", "d.org,*.e.org:8443,")
    assert load().settings.allow_net == ("d.org", "*.e.org:8443")
    assert load({"allow_net": ["f.org,g.org", "h.org"]}).settings.allow_net == ("f.org", "g.org", "h.org")
    monkeypatch.setenv("CODEACT_NETWORK", "host")
    assert load().settings.network == "host"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("modle = 'x'", "unknown setting 'modle'"),
        ("api_key = 'x'", "OPENAI_API_KEY only"),
        ("max_turns = 0", "max_turns (from"),
        ("timeout = nan", "timeout (from"),
        ("model = [1]", "model (from"),
        ("model =", "is not TOML"),
        ("network = 'bridge'", "network (from"),
        ("allow_net = 3", "allow_net (from"),
        ("allow_net = [3]", "allow_net (from"),
    ],
)
def test_a_mistake_in_the_file_is_named_with_the_file(file: Path, text: str, said: str) -> None:
    file.write_text(text)
    with pytest.raises(UsageError) as raised:
        load()
    assert said in str(raised.value) and str(file) in str(raised.value)


def test_mistakes_elsewhere_are_named_with_their_place(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"^--max-turns: "):
        load({"max_turns": 0})
    monkeypatch.setenv("CODEACT_MEMORY", "much")
    with pytest.raises(UsageError, match=r"^memory \(from CODEACT_MEMORY\)"):
        load()


def test_a_file_that_is_named_must_be_there(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().origins == {}
    monkeypatch.setenv("CODEACT_CONFIG", str(file))
    with pytest.raises(UsageError, match="does not exist"):
        load()
    file.write_bytes(b"\xff")
    with pytest.raises(UsageError, match="not UTF-8"):
        load()
    monkeypatch.setenv("CODEACT_CONFIG", str(file.parent))
    with pytest.raises(UsageError, match="cannot be read"):
        load()
