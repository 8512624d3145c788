"""What servers say when they say no, in their own words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeact.models.refusal import read_refusal


@pytest.mark.parametrize(
    ("message", "prompt", "window"),
    [
        (
            "This model's maximum context length is 4096 tokens. However, your request has 5000 input tokens.",
            5000,
            4096,
        ),
        (
            "'max_tokens' or 'max_completion_tokens' is too large: 1024. This model's maximum context length is 4096 "
            "tokens and your request has 3900 input tokens (1024 > 4096 - 3900).",
            3900,
            4096,
        ),
        (
            "Trying to keep the first 5000 tokens when context the overflows. However, the model is loaded with "
            "context length of only 4096 tokens, which is not enough",
            5000,
            4096,
        ),
        ("prompt is too long: 210,000 tokens > 200,000 maximum", 210000, 200000),
        (
            "The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).",
            1200000,
            1048576,
        ),
        ("the request exceeds the available context size. try increasing the context size", None, None),
    ],
)
def test_overflow_told_in_prose(message: str, prompt: int | None, window: int | None) -> None:
    error = read_refusal({"error": {"message": message, "type": "BadRequestError", "code": 400}}, 400).overflow()
    assert error is not None
    assert (error.prompt_tokens, error.context_window) == (prompt, window)


@pytest.mark.parametrize(
    "message",
    ["max_tokens must be positive", "the context 'execute' is unknown", "messages must alternate", "8192 tokens a day"],
)
def test_other_refusals_are_no_overflow(message: str) -> None:
    assert read_refusal({"error": {"message": message}}, 400).overflow() is None


@pytest.mark.parametrize(
    ("body", "status", "temporary"),
    [
        ({"error": {"code": 429, "message": "slow down"}}, None, True),
        ({"error": {"code": 401, "message": "who are you"}}, None, False),
        ({"error": "overloaded"}, None, True),
        ([{"error": {"code": 503, "message": "later"}}], None, True),
        ("Bad Gateway", 502, True),
        ({"detail": [{"loc": ["body"], "msg": "extra fields not permitted"}]}, 422, False),
    ],
)
def test_whether_to_ask_again(body: object, status: int | None, temporary: bool) -> None:
    refusal = read_refusal(body, status)
    assert refusal.temporary is temporary
    assert refusal.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["error", "message", "code", "type", "param", "n_ctx", "n_prompt_tokens"]) | st.text(),
            inner,
        )
    ),
    max_leaves=8,
)


@given(JSON, st.none() | st.integers(400, 599))
def test_anything_can_be_read_and_shown(body: object, status: int | None) -> None:
    refusal = read_refusal(body, status)
    assert refusal.message.isprintable()
    assert len(refusal.message) <= 401
    assert isinstance(refusal.temporary, bool)
    overflow = refusal.overflow()
    assert overflow is None or str(overflow).isprintable()
