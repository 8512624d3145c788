"""Models behind any server that speaks the OpenAI chat completions protocol."""

from __future__ import annotations

import asyncio
import email.utils
import os
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import ValidationError

from codeact.contracts import (
    Finish,
    ModelChunk,
    ModelRequest,
    Restart,
    TextDelta,
    UsageReport,
)
from codeact.errors import ModelError, ModelRefused, ModelTimeout, ModelUnavailable, UsageError
from codeact.models.counting import count_tokens
from codeact.models.discover import get_json, is_loopback, model_names, server_kind
from codeact.models.estimate import estimate_usage
from codeact.models.refusal import Refusal, read_refusal
from codeact.models.request import rejected_field, request_fields
from codeact.models.windows import card_window, ollama_window, told_window
from codeact.models.wire import (
    DONE,
    BrokenStream,
    Completion,
    NotTheProtocol,
    TokenCount,
    chunks_of,
    payloads,
    usage_of,
)

if TYPE_CHECKING:
    import openai

OPENAI_URL = "https://api.openai.com/v1"
NO_KEY = "none"

_MAX_WAIT = 30.0  # seconds before a retry, whatever Retry-After asks for
_QUESTION_TIMEOUT = 2.0  # seconds for optional questions to the server (its models, its window)
_USAGE_GRACE = 5.0  # seconds for the usage to follow the end of the reply
_DRAIN = 0.1  # seconds for the end of the response to follow [DONE]
_KEEPALIVES = 5  # times `timeout` that a server may go on sending signs of life without a word of the reply
_SEES = ("gpt-4o", "gpt-4.1", "gpt-5", "o3", "o4-mini", "claude", "gemini", "gemma3", "gemma-3", "llava", "pixtral")


class OpenAIModel:
    """A model behind an OpenAI-compatible server, by streaming chat completions.

    ``base_url`` and ``api_key`` default to ``OPENAI_BASE_URL`` and ``OPENAI_API_KEY``, then to OpenAI and no key.
    ``accepts_images`` None: judged by the name. ``context_window`` in tokens, None: what the model's
    card says, where it is known (see also ``discover``).
    ``timeout``: seconds of silence allowed while a reply is awaited or streams. ``max_retries`` for 429, 5xx and broken
    streams, with doubling waits from ``backoff`` seconds. ``max_reply_chars`` ends a reply that does not end itself.

    Reasoning that servers send beside the text (``reasoning_content``) is not part of the reply and is dropped.
    A server that rejects ``stream_options``, ``temperature``, ``stop`` or ``max_tokens`` is asked again without (the
    last one under its new name, ``max_completion_tokens``), and this is remembered.
    The key is in no message and no repr. Not protected: what the server does with the conversation.
    """

    def __init__(
        self,
        name: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        accepts_images: bool | None = None,
        context_window: int | None = None,
        timeout: float = 120.0,
        connect_timeout: float = 10.0,
        max_retries: int = 4,
        backoff: float = 0.5,
        max_reply_chars: int = 200_000,
    ) -> None:
        self.name = name
        self.base_url = (base_url or os.environ.get("OPENAI_BASE_URL") or OPENAI_URL).rstrip("/")
        if urlsplit(self.base_url).scheme not in ("http", "https") or not urlsplit(self.base_url).hostname:
            raise UsageError("the base URL of a model server looks like http://127.0.0.1:8000/v1")
        self.context_window = context_window or card_window(name)
        self._window_given = context_window is not None
        lowered = name.lower()
        guess = "-vl" in lowered or "vision" in lowered or lowered.rsplit("/", 1)[-1].startswith(_SEES)
        self.accepts_images = guess if accepts_images is None else accepts_images
        self.served_by: str | None = None
        self.max_reply_chars = max_reply_chars
        self._api_key = (api_key or os.environ.get("OPENAI_API_KEY") or NO_KEY).strip()
        if not (self._api_key.isascii() and self._api_key.isprintable()):
            raise UsageError("the API key holds characters that no key has: check OPENAI_API_KEY")
        self._timeout = timeout
        self._connect_timeout = connect_timeout
        self._max_retries = max_retries
        self._backoff = backoff
        self._rejected: set[str] = set()
        self._counts = True
        self._http: Any = None
        self._client: openai.AsyncOpenAI | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, base_url={self._place!r})"

    @property
    def description(self) -> str:
        """One line for people: the model, where it is, and what serves it, if known."""
        return f"{self.name} at {self._place}" + (f" ({self.served_by})" if self.served_by else "")

    @property
    def _place(self) -> str:
        """The base URL without user and password."""
        parts = urlsplit(self.base_url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """Continue the conversation. Each retry is announced by ``Restart``; ``Finish`` comes last.

        Raises ContextOverflow, ModelRefused, ModelTimeout (after one retry) and ModelUnavailable (after all).
        Closing the iterator closes the connection, which stops the generation.
        """
        failures = silences = 0
        while True:
            try:
                async with aclosing(self._attempt(request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except _Failed as failed:
                failures += 1
                silences += failed.silent
                error = self._final(failed, failures, silences)
                if error is not None:
                    raise error from self._shown(failed.__cause__)
                reason = failed.reason
                wait = self._backoff * 2 ** (failures - 1) * random.uniform(0.5, 1.5)
                wait = min(_MAX_WAIT, wait if failed.retry_after is None else failed.retry_after)
            yield Restart(reason=reason)
            await asyncio.sleep(wait)

    async def close(self) -> None:
        """Release the connections. The model can be used again afterwards."""
        client, self._client = self._client, None
        if client is not None and self._loop is asyncio.get_running_loop():
            await client.close()

    async def models(self) -> tuple[str, ...]:
        """The chat models that the server lists; empty where it does not say within two seconds."""
        return model_names(await self._ask(f"{self.base_url}/models"))

    async def discover(self) -> int | None:
        """Learn what kind of server this is and, unless ``context_window`` was given, the window that it says:
        llama.cpp's ``/props``, vLLM's ``max_model_len``, Ollama's ``/api/ps`` and ``/api/show``; else the window stays
        that of the card. Takes at most four seconds and never raises."""
        root = self.base_url.removesuffix("/v1")
        props, models = await asyncio.gather(self._ask(f"{root}/props"), self._ask(f"{self.base_url}/models"))
        told = told_window(props, models, self.name)
        self.served_by = self.served_by or server_kind(models) or ("llama.cpp" if props and told else None)
        if self.served_by == "Ollama" and told is None:
            show = self._ask(f"{root}/api/show", {"model": self.name})
            told = ollama_window(*await asyncio.gather(self._ask(f"{root}/api/ps"), show), self.name)
        if not self._window_given:
            self.context_window = told or self.context_window
        return self.context_window

    async def count_tokens(self, texts: Sequence[str]) -> Sequence[int] | None:
        """The tokens of each text where vLLM or llama.cpp serve (see ``discover``), else None. A server that fails to
        tell is not asked again."""
        if self._counts:
            self._connected()
            url = self.base_url.removesuffix("/v1") + "/tokenize"
            counts = await count_tokens(self._http, url, self._headers, self.served_by, self.name, texts)
            self._counts = counts is not None or self.served_by is None
            return counts
        return None

    @property
    def _headers(self) -> dict[str, str]:
        return {} if self._api_key == NO_KEY else {"Authorization": f"Bearer {self._api_key}"}

    async def _ask(self, url: str, body: object = None) -> object | None:
        return await get_json(url, timeout=_QUESTION_TIMEOUT, headers=self._headers, body=body)

    async def _attempt(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        response = await self._open(request)
        count: TokenCount | None = None
        served: str | None = None
        reason: str | None = None
        ended = False
        reply: list[str] = []
        room = self.max_reply_chars
        try:
            async with aclosing(_bytes(response)) as body, aclosing(payloads(body)) as events:
                while (completion := await self._next(events, ended)) is not None:
                    if completion == DONE:
                        ended = True
                        await _drain(body)
                        break
                    served = completion.model or served
                    count = completion.usage or count
                    for choice in (completion.choices or [])[:1]:
                        for chunk in chunks_of(choice):
                            reply.append(chunk.text if isinstance(chunk, TextDelta) else chunk.arguments)
                            room -= len(reply[-1])
                            yield chunk
                        room -= choice.piece.hidden
                        if choice.finish_reason is not None or choice.message is not None:
                            reason, ended = choice.finish_reason, True
                    room -= 1  # so that payloads without a word end as well
                    if room <= 0:
                        reason, ended = reason if ended else "length", True
                        break
        finally:
            await response.aclose()
        if not ended:
            raise _Failed("the stream ended in the middle of the reply")
        yield UsageReport(usage=usage_of(count) or estimate_usage(request, reply), model=served)
        yield Finish(reason=reason)

    async def _next(self, events: AsyncIterator[str], ended: bool) -> Completion | Literal["[DONE]"] | None:
        """What comes next, None at the end. What goes wrong after the reply has ended is not worth a retry."""
        try:
            async with asyncio.timeout(_USAGE_GRACE if ended else self._timeout * _KEEPALIVES):
                payload = await anext(events, None)
            if payload is None:
                return None
            return DONE if payload.strip() == DONE else self._read(payload)
        except NotTheProtocol as error:
            raise ModelRefused(
                f"{self._place} answers with {error}: check the base URL, it usually ends in /v1"
            ) from error
        except (_Failed, BrokenStream, TimeoutError) as error:
            if ended:
                return None
            if isinstance(error, _Failed):
                raise
            if isinstance(error, TimeoutError):
                raise _Failed(f"no word for {self._timeout * _KEEPALIVES:g} seconds", silent=True) from error
            raise _Failed(f"the server sent {error}") from error

    def _read(self, payload: str) -> Completion:
        try:
            completion = Completion.model_validate_json(payload)
        except ValidationError as error:
            raise _Failed("the server sent a broken chunk") from error
        if completion.error:
            refusal = read_refusal({"error": completion.error})
            self._refuse_for_good(refusal)
            raise _Failed(f"the server said: {self._redact(refusal.message)}")
        return completion

    async def _open(self, request: ModelRequest) -> Any:
        """The response whose body streams, its status good. Raises ModelRefused, ContextOverflow and _Failed."""
        import openai

        create: Any = self._connected().chat.completions.create
        rejected = set(self._rejected)
        while True:
            fields = request_fields(request, self.name, self.accepts_images, rejected)
            try:
                # The SDK reads the body of an error whole: bound that as well.
                async with asyncio.timeout(self._connect_timeout + 2 * self._timeout):
                    response = (await create(**fields)).response
                self._rejected = rejected
                return response
            except openai.APIStatusError as error:
                refusal = read_refusal(error.body if error.body is not None else error.response.text, error.status_code)
                if field := rejected_field(refusal, fields):
                    rejected.add(field)
                    continue
                if refusal.status == 404:
                    message = await self._not_found()
                    raise ModelRefused(message) from self._shown(error)
                self._refuse_for_good(refusal, error)
                reason = f"{refusal.status} {self._redact(refusal.message)}".strip()
                raise _Failed(reason, retry_after=_retry_after(error.response.headers)) from error
            except (openai.APITimeoutError, TimeoutError) as error:
                # A server that cannot be reached also times out, but then its silence is not the model's.
                connecting = type(error.__cause__).__name__ in ("ConnectTimeout", "PoolTimeout")
                if connecting:
                    raise _Failed(f"no connection within {self._connect_timeout:g} seconds", silent=False) from error
                raise _Failed(f"no answer for {self._timeout:g} seconds", silent=True) from error
            except openai.APIError as error:
                detail = self._redact(str(error.__cause__ or error))
                raise _Failed(f"connection failed: {detail}") from error

    def _connected(self) -> openai.AsyncOpenAI:
        import openai

        # Connections belong to the loop that opened them; a new loop needs a new client.
        loop = asyncio.get_running_loop()
        if self._client is None or self._loop is not loop:
            self._http = http = openai.DefaultAsyncHttpxClient(
                timeout=openai.Timeout(self._timeout, connect=self._connect_timeout),
                trust_env=not is_loopback(self.base_url),
            )
            self._client = openai.AsyncOpenAI(
                api_key=self._api_key, base_url=self.base_url, max_retries=0, http_client=http
            )
            self._loop = loop
        return self._client

    def _refuse_for_good(self, refusal: Refusal, error: Exception | None = None) -> None:
        """Raises unless asking again may help."""
        if overflow := refusal.overflow():
            raise overflow from self._shown(error)
        if refusal.temporary:
            return
        said = self._redact(refusal.message)
        remedy = {
            401: "check the key in OPENAI_API_KEY",
            403: "check that the key in OPENAI_API_KEY may use this model",
        }.get(refusal.status or 0, f"check what {self.name!r} accepts")
        if refusal.code == "insufficient_quota":
            remedy = "the account has no quota left"
        raise ModelRefused(f"{self._place} refused ({refusal.status}): {said}: {remedy}") from self._shown(error)

    async def _not_found(self) -> str:
        names = [n for n in await self.models() if n != self.name]
        if names:
            some = ", ".join(names[:10]) + (" …" if len(names) > 10 else "")
            return f"{self._place} has no model {self.name!r}: choose one of {self._redact(some)}"
        return (
            f"{self._place} answered 404 for model {self.name!r}: check the name and the base URL (usually ends in /v1)"
        )

    def _final(self, failed: _Failed, failures: int, silences: int) -> ModelError | None:
        if failed.silent and (silences > 1 or failures > self._max_retries):
            return ModelTimeout(
                f"{self.name} at {self._place} went silent ({failed.reason}): is the server overloaded?"
            )
        if failures > self._max_retries:
            return ModelUnavailable(
                f"{self._place} failed {failures} times, lastly: {failed.reason}: is the model server running?"
            )
        return None

    def _redact(self, text: str) -> str:
        return text if self._api_key == NO_KEY else text.replace(self._api_key, "[key]")

    def _shown(self, cause: BaseException | None) -> BaseException | None:
        """The cause to chain, unless printing it would show the key."""
        seen = cause
        while seen is not None:
            if self._api_key != NO_KEY and self._api_key in str(seen):
                return None
            seen = seen.__cause__ or seen.__context__
        return cause


class _Failed(Exception):
    """One attempt failed in a way that another may not."""

    def __init__(self, reason: str, *, silent: bool = False, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.silent = silent
        self.retry_after = retry_after


async def _bytes(response: Any) -> AsyncGenerator[bytes, None]:
    try:
        async for chunk in response.aiter_bytes():
            yield chunk
    except Exception as error:  # only the HTTP library runs in here; the SDK changed which one between versions
        if "Timeout" in type(error).__name__:
            raise _Failed("the stream went silent", silent=True) from error
        raise _Failed("the connection broke in the middle of the reply") from error


async def _drain(body: AsyncIterator[bytes]) -> None:
    """Read to the end of a response, if it is near: then the connection serves the next turn as well."""
    try:
        async with asyncio.timeout(_DRAIN):
            async for _ in body:
                pass
    except (TimeoutError, _Failed):
        pass  # the reply is whole, only the connection is lost


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return max(0.0, seconds) if seconds == seconds else None
