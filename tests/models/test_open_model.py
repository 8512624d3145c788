"""Which model is meant, from what the user said and has."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path

import pytest

from codeact.contracts import Message, ModelRequest, Reply, TextDelta
from codeact.errors import ReplayDeparted, TrajectoryError, UsageError
from codeact.events import Event, ModelReplied, RunStarted
from codeact.models import describe, open_model
from codeact.models.openai import OpenAIModel
from codeact.models.prices import price
from codeact.trajectory import TrajectoryWriter
from tests.servers import ScriptedServer


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CODEACT_MODEL", "OPENAI_BASE_URL", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def nobody() -> Mapping[str, int]:
    """A port where nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return {"Ollama": unused.getsockname()[1]}


async def test_nothing_at_all_names_the_ways(nobody: Mapping[str, int]) -> None:
    with pytest.raises(UsageError) as caught:
        await open_model(ports=nobody)
    for word in (
        f"{nobody['Ollama']} (Ollama)",
        "ollama",
        "llama-server",
        "OPENAI_API_KEY",
        "OPENAI_BASE_URL",
        ".gguf",
    ):
        assert word in str(caught.value)


async def test_a_local_server_is_found() -> None:
    with (
        ScriptedServer(known_models=[]) as empty,
        ScriptedServer(known_models=["qwen2.5:latest", "phi4"], model_fields={"max_model_len": 4096}) as server,
    ):
        ports = {"vLLM": empty.port, "Ollama": server.port}
        model = await open_model(ports=ports)
        assert describe(model) == f"qwen2.5:latest at {server.base_url} (Ollama)"
        assert model.context_window == 4096
        assert (await open_model("phi4", ports=ports)).name == "phi4"
        assert (await open_model("qwen2.5", ports=ports, context_window=99)).context_window == 99
        with pytest.raises(UsageError, match=r"no local server has 'gpt-4o' .*Ollama at .* has qwen2\.5:latest, phi4"):
            await open_model("gpt-4o", ports=ports)
        with pytest.raises(UsageError, match="no model yet"):
            await open_model(ports={"vLLM": empty.port})


async def test_arguments_go_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(known_models=["a"], api_key="key-one") as one, ScriptedServer(known_models=["b"]) as two:
        monkeypatch.setenv("OPENAI_BASE_URL", one.base_url)
        monkeypatch.setenv("OPENAI_API_KEY", "key-one")
        model = await open_model()
        assert describe(model) == f"a at {one.base_url}"
        monkeypatch.setenv("CODEACT_MODEL", "c")
        assert (await open_model()).name == "c"
        model = await open_model("d", base_url=two.base_url)
        assert isinstance(model, OpenAIModel)
        assert (model.name, model.base_url) == ("d", two.base_url)


async def test_a_base_url_needs_no_key_and_no_name() -> None:
    with ScriptedServer(known_models=["only"]) as server:
        model = await open_model(base_url=server.base_url + "/")
        assert (model.name, describe(model)) == ("only", f"only at {server.base_url}")
    with pytest.raises(UsageError, match="does not list its models"):
        await open_model(base_url=server.base_url)


async def test_a_key_alone_needs_a_name() -> None:
    with pytest.raises(UsageError, match="CODEACT_MODEL"):
        await open_model(api_key="sk-0123456789")
    model = await open_model("gpt-4.1-mini", api_key="sk-0123456789")
    assert describe(model) == "gpt-4.1-mini at https://api.openai.com/v1"


def test_prices() -> None:
    assert price("gpt-4o-mini") == price("gpt-4o-mini-2024-07-18") == price("openai/gpt-4o-mini") == (0.15, 0.60)
    assert price("gpt-4o-2024-05-13") == (5.0, 15.0)
    assert price("qwen2.5-coder") is None


async def test_a_trajectory_is_a_model(tmp_path: Path) -> None:
    events: list[Event] = [
        RunStarted(task="Hi", model="gpt-9"),
        ModelReplied(turn=1, reply=Reply(text="Hello.", answer="Hello.")),
    ]
    with TrajectoryWriter(tmp_path / "run.jsonl") as writer:
        for event in events:
            writer.write(event)
    model = await open_model(f"replay:{tmp_path / 'run.jsonl'}")
    assert describe(model) == "replay of gpt-9 (1 recorded replies)"
    asked = ModelRequest(messages=(Message(role="user", text="Hi"),))
    chunks = [chunk async for chunk in model.stream(asked)]
    assert "".join(chunk.text for chunk in chunks if isinstance(chunk, TextDelta)) == "Hello."
    said = Message(role="assistant", text="Good bye.")
    with pytest.raises(ReplayDeparted):
        _ = [chunk async for chunk in model.stream(ModelRequest(messages=(*asked.messages, said)))]
    (tmp_path / "broken.jsonl").write_text("{}\n{}\n")
    with pytest.raises(TrajectoryError):
        await open_model(f"replay:{tmp_path / 'broken.jsonl'}")
    with pytest.raises(UsageError):
        await open_model(f"replay:{tmp_path / 'missing.jsonl'}")
