import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeact.context import Context, estimate_tokens, messages
from codeact.contracts import ActionFormat, Image, Message, Reply, ToolCall, Usage
from codeact.errors import ContextOverflow
from codeact.events import Event, ModelReplied, Notice, Observed, RunFinished, RunStarted, TurnStarted
from codeact.formats import get_format

TAGS: ActionFormat = get_format("tags")


def action(code: str = "print(1)", turn: int = 1, tokens: int = 0) -> ModelReplied:
    reply = Reply(text=f"<execute>{code}</execute>", code=code)
    return ModelReplied(turn=turn, reply=reply, usage=Usage(prompt_tokens=tokens))


def answer(text: str, turn: int = 1) -> ModelReplied:
    return ModelReplied(turn=turn, reply=Reply(text=text, answer=text))


def observed(text: str, *images: Image) -> Observed:
    return Observed(turn=1, text=text, images=images)


def start(task: str = "task", **fields: Any) -> RunStarted:
    return RunStarted(task=task, **fields)


def roles(turns: tuple[Message, ...]) -> str:
    return "".join(m.role[0] for m in turns)


def long_run(turns: int, size: int = 1000) -> list[Event]:
    events: list[Event] = [start("the task", prompt="the system prompt")]
    for turn in range(turns):
        events += [
            TurnStarted(turn=turn + 1),
            action(f"step({turn})", turn + 1),
            observed(f"result {turn}: " + "word " * (size // 5)),
        ]
    return events


def estimate(turns: tuple[Message, ...]) -> int:
    return sum(estimate_tokens(m.text) + 5 for m in turns)


def test_a_conversation_becomes_messages() -> None:
    events: list[Event] = [
        start("How many?", prompt="You are…", files=("a.csv", "b.csv")),
        TurnStarted(turn=1),
        action("print(3)"),
        observed("3"),
        answer("Three."),
        RunFinished(reason="answered", answer="Three."),
        start("And now?"),
    ]
    turns = messages(events, format=TAGS)
    assert roles(turns) == "suauau"
    assert turns[0].text == "You are…"
    assert turns[1].text == "How many?\n\nFiles in /workspace: a.csv, b.csv"
    assert turns[2].text == "<execute>print(3)</execute>" and "3" in turns[3].text
    assert [m.text for m in turns[4:]] == ["Three.", "And now?"]


def test_the_latest_prompt_is_the_system_message() -> None:
    turns = messages([start(prompt="one"), answer("x"), start(prompt="two"), answer("y"), start()], format=TAGS)
    assert [m.text for m in turns if m.role == "system"] == ["two"]
    assert messages([], format=TAGS) == ()


def test_notices_for_the_model_reach_it_once() -> None:
    before: list[Event] = [
        start(),
        action(),
        Notice(text="careful", to_model=True),
        Notice(text="secret"),
        observed("1"),
    ]
    turns = messages(before, format=TAGS)
    assert turns[-1].text.endswith("1\ncareful") and "secret" not in str(turns)
    after: list[Event] = [start(), action(), observed("1"), Notice(text="hurry", to_model=True)]
    turns = messages(after, format=TAGS)
    assert roles(turns) == "uau" and turns[-1].text.endswith("1\nhurry")
    alone: list[Event] = [start(), answer("hm"), Notice(text="Write code.", to_model=True)]
    assert [m.text for m in messages(alone, format=TAGS)] == ["task", "hm", "Write code."]
    longer = messages([*after, action("b"), observed("2")], format=TAGS)
    assert longer[: len(turns)] == turns


def test_code_that_was_never_run_still_has_an_outcome() -> None:
    turns = messages([start("a"), action(), RunFinished(reason="cancelled"), start("b")], format=TAGS)
    assert roles(turns) == "uauu" and "not run" in turns[2].text
    call = ToolCall(id="c1", name="python", arguments='{"code": "1"}')
    reply = ModelReplied(turn=1, reply=Reply(text="", code="1", tool_call=call))
    turns = messages([start("a"), reply, start("b")], format=get_format("tool_call"))
    assert [m.role for m in turns] == ["user", "assistant", "tool", "user"] and turns[2].tool_call_id == "c1"


def test_messages_of_the_user_in_a_row_are_joined() -> None:
    turns = messages([start("a"), RunFinished(reason="cancelled"), start("b")], format=TAGS)
    assert [m.text for m in turns] == ["a\n\nb"]


def test_only_the_latest_images_are_sent() -> None:
    image = [Image(mime="image/png", data=str(n)) for n in range(6)]
    events: list[Event] = [start()]
    for n in (0, 2, 4):
        events += [action(), observed("x", image[n], image[n + 1])]
    kept = [i.data for m in messages(events, format=TAGS, max_images=3) for i in m.images]
    assert kept == ["3", "4", "5"]
    assert not [i for m in messages(events, format=TAGS, max_images=0) for i in m.images]


def test_nothing_is_cut_without_need() -> None:
    events = long_run(20)
    assert messages(events, format=TAGS, context_window=100_000) == messages(events, format=TAGS)


def test_oldest_outputs_go_first_and_their_code_stays() -> None:
    turns = messages(long_run(20), format=TAGS, context_window=5000)
    assert turns[0].text == "the system prompt" and turns[1].text == "the task"
    assert [m.text for m in turns if m.role == "assistant"] == [f"<execute>step({n})</execute>" for n in range(20)]
    assert "[output of 1,0" in turns[3].text and "result 0" not in turns[3].text
    assert "result 19" in turns[-1].text
    assert estimate(turns) * 1.15 <= 5000 - 1024


def test_then_the_oldest_turns_but_never_task_and_latest() -> None:
    turns = messages(long_run(300), format=TAGS, context_window=4000)
    assert turns[0].text == "the system prompt"
    assert turns[1].text.startswith("the task") and "earlier messages are left out" in turns[1].text
    assert roles(turns[1:]) == "u" + "au" * ((len(turns) - 2) // 2)
    assert "step(299)" in turns[-2].text and "result 299" in turns[-1].text
    assert estimate(turns) * 1.15 <= 4000 - 1000
    left_out = int(turns[1].text.rpartition("[")[2].split()[0])
    assert left_out + len(turns) - 2 == 600


def test_in_a_chat_old_runs_go_and_the_current_question_stays() -> None:
    events: list[Event] = []
    for n in range(30):
        events += [start(f"question {n}", prompt="sys"), *long_run(3)[1:], answer(f"answer {n}")]
    turns = messages([*events, start("last question")], format=TAGS, context_window=4000)
    assert turns[-1].text == "last question" and turns[1].role == "user"
    assert "question 0" not in str(turns)


def test_the_beginning_stays_the_same_for_many_turns() -> None:
    events = long_run(200)
    changes = 0
    before: tuple[Message, ...] = ()
    for end in range(4, len(events) + 1, 3):
        now = messages(events[:end], format=TAGS, context_window=8000)
        changes += now[: len(before)] != before
        before = now
    assert 2 < changes < 200 / 5


def test_a_single_message_too_long_is_cut_in_its_middle() -> None:
    turns = messages([start("begin " + "word " * 50_000 + "end", prompt="sys")], format=TAGS, context_window=4000)
    assert turns[0].text == "sys" and turns[1].text.startswith("begin word") and turns[1].text.endswith("word end")
    assert estimate(turns) * 1.15 <= 3000
    turns = messages([start(), action(), observed("3 " * 100_000)], format=TAGS, context_window=4000)
    assert roles(turns) == "uau" and estimate(turns) * 1.15 <= 3000


def test_the_estimate_learns_from_usage() -> None:
    events = long_run(20)
    size = estimate(messages(events[:4], format=TAGS))
    dear = [*events[:4], action("again", tokens=3 * size), observed("x")]
    rest = long_run(15)[1:]
    cut = estimate(messages([*dear, *rest], format=TAGS, context_window=12_000))
    assert 3 * cut * 1.1 <= 12_000
    uncut = messages([*events[:4], action("again"), observed("x"), *rest], format=TAGS, context_window=12_000)
    assert estimate(uncut) > cut


@pytest.mark.parametrize("said", [(None, None), (9000, None), (9000, 4096), (None, 2048)])
def test_after_a_refusal_less_is_sent(said: tuple[int | None, int | None]) -> None:
    for window in (None, 8192, 100_000):
        context = Context(TAGS, window)
        events = long_run(18)
        sizes = [estimate(context.messages(events))]
        for _ in range(3):
            context.shrink(ContextOverflow("too long", *said))
            sizes.append(estimate(context.messages(events)))
        assert sizes == sorted(sizes, reverse=True) and sizes[1] < sizes[0] and sizes[3] < sizes[1]


def test_estimates() -> None:
    assert 9 <= estimate_tokens("The quick brown fox jumps over the lazy dog.") <= 11
    assert estimate_tokens("") == 0
    assert estimate_tokens("1234567890" * 30) >= 100
    assert estimate_tokens("日本語") == 3


def test_a_long_conversation_costs_little_a_turn() -> None:
    events, context = long_run(100, size=4000), Context(TAGS, 32_000)
    context.messages(events[:-3])
    begin = time.process_time()
    context.messages(events)
    assert time.process_time() - begin < 0.05


def conversation(seed: int, length: int) -> list[Event]:
    chance = random.Random(seed)
    events: list[Event] = [start(prompt="system")]
    for _ in range(length):
        size = chance.choice([1, 10, 300, 3000])
        choices: list[Event] = [
            start("ask " * size),
            action("x = 1\n" * (size // 6), tokens=chance.choice([0, 0, 500, 5000])),
            observed("7 out " * size),
            answer("so " * size),
            Notice(text="note " * (size // 10), to_model=chance.random() < 0.5),
            RunFinished(reason="cancelled"),
        ]
        events.append(chance.choice(choices))
    return events


@given(st.integers(0, 2**32), st.integers(0, 40), st.sampled_from([None, 600, 2000, 8000]))
@settings(max_examples=100, deadline=None)
def test_any_conversation_gives_an_orderly_prompt_that_fits(seed: int, length: int, window: int | None) -> None:
    events = conversation(seed, length)
    context = Context(TAGS, window)
    turns = context.messages(events)
    assert turns == Context(TAGS, window).messages(events) == context.messages(events)
    assert turns[0].role == "system" and turns[1].role == "user"
    assert all(m.role != "system" for m in turns[1:])
    if window:  # half of our estimate is the least that a server's count is believed to be
        assert estimate(turns) * 1.15 * 0.5 <= window - min(1024, window // 4)
