"""A model from a GGUF file, served by llama.cpp (the PyPI package xllamacpp, prebuilt) on this machine.

llama.cpp's own HTTP server runs in a child process: loading would hold the interpreter's lock for its whole time, a
crash in native code stays there, and ending the process frees everything. It listens on loopback with a random key,
so other users of the machine and web pages in a browser cannot use it, and it ends when this process does.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

from codeact.contracts import ModelChunk, ModelRequest
from codeact.errors import ModelUnavailable, UsageError
from codeact.models.openai import OpenAIModel

DEFAULT_WINDOW = 8192


class LlamaCppModel:
    """A GGUF file as a model. It is loaded by ``start``, or by the first ``stream``.

    ``context_window`` in tokens; the model's trained maximum where that is smaller (``start`` corrects it).
    ``threads``: None for one a core; fewer where other programs keep cores busy, since its threads wait for each other.
    ``timeout``: seconds of silence allowed in a reply; ``start_timeout``: seconds for loading.
    Raises UsageError where the extra is not installed or the file is not a GGUF file.
    Not protected: llama.cpp parses the file in native code; load only files from sources you trust.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        context_window: int | None = None,
        threads: int | None = None,
        timeout: float = 600.0,
        start_timeout: float = 300.0,
    ) -> None:
        self.path = Path(path).expanduser()
        _check(self.path)
        if importlib.util.find_spec("xllamacpp") is None:
            raise UsageError("models from GGUF files need llama.cpp: pip install 'codeact[llamacpp]'")
        self.name = self.path.stem
        self.accepts_images = False
        self.context_window: int | None = context_window or DEFAULT_WINDOW
        self._threads = threads
        self._timeout = timeout
        self._start_timeout = start_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._model: OpenAIModel | None = None
        self._starting = asyncio.Lock()

    @property
    def description(self) -> str:
        """One line for people."""
        return f"{self.name} from {self.path} (llama.cpp)"

    async def start(self) -> None:
        """Load the model, again if its process has died. Raises ModelUnavailable where llama.cpp cannot load it."""
        async with self._starting:
            if self._process is None or self._process.poll() is not None:
                await self.close()
                self._model = await self._serve()

    async def _serve(self) -> OpenAIModel:
        key = secrets.token_urlsafe(32)
        command = [sys.executable, "-m", "codeact.models.llamacpp"]
        # Not asyncio's: its processes belong to one event loop, and a model may be used from several in turn.
        self._process = process = subprocess.Popen(  # noqa: ASYNC220
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in the terminal is for us, not for it
        )
        wanted = {
            "path": str(self.path.absolute()),
            "window": self.context_window,
            "key": key,
            "threads": self._threads,
        }
        try:
            async with asyncio.timeout(self._start_timeout):
                line = await asyncio.to_thread(_converse, process, json.dumps(wanted).encode() + b"\n")
        except TimeoutError as error:
            await self.close()
            raise ModelUnavailable(
                f"llama.cpp did not load {self.path} within {self._start_timeout:g} seconds: try a smaller model"
            ) from error
        except BaseException:
            process.kill()
            raise
        if not line:
            await self.close()
            raise ModelUnavailable(f"llama.cpp cannot load {self.path}: is the file whole, and is there memory for it?")
        model = OpenAIModel(self.name, base_url=json.loads(line)["address"] + "/v1", api_key=key, timeout=self._timeout)
        model.served_by = "llama.cpp"
        self.context_window = await model.discover() or self.context_window
        model.context_window = self.context_window
        return model

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        """As ``OpenAIModel.stream``."""
        await self.start()
        assert self._model is not None
        async with aclosing(self._model.stream(request)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def count_tokens(self, texts: Sequence[str]) -> Sequence[int] | None:
        """The tokens of each text by the model's own tokenizer. Raises as ``start``."""
        await self.start()
        assert self._model is not None
        return await self._model.count_tokens(texts)

    async def close(self) -> None:
        """End the server and free its memory. Safe to call twice; the next ``stream`` loads again."""
        model, self._model = self._model, None
        process, self._process = self._process, None
        if model is not None:
            await model.close()
        if process is not None:
            process.kill()  # it holds nothing worth a farewell
            await asyncio.to_thread(process.wait, 10)
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()


def _check(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise UsageError(f"cannot read the model file {path}: {error.strerror}") from error
    if magic != b"GGUF":
        raise UsageError(f"{path} is not a GGUF file: convert the model with llama.cpp's convert_hf_to_gguf.py")


def _converse(process: subprocess.Popen[bytes], line: bytes) -> bytes:
    """Tell the child what to serve; its answer, empty if it died."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(line)
        process.stdin.flush()
    except BrokenPipeError:
        return b""
    return process.stdout.readline(10_000)


def _child() -> None:
    """The child: serves what stdin asks for until stdin ends, which it also does when the parent dies."""
    xllamacpp: Any = importlib.import_module("xllamacpp")
    wanted = json.loads(sys.stdin.readline())
    params = xllamacpp.CommonParams()
    params.model.path = wanted["path"]
    params.n_ctx = wanted["window"]
    params.n_parallel = 1
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.api_keys = [wanted["key"]]
    params.ui = False
    params.endpoint_slots = False  # it would show conversations
    params.verbosity = -1
    if wanted["threads"]:
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = wanted["threads"]
    params.warmup = False  # most of the time that loading takes
    server = xllamacpp.Server(params)
    sys.stdout.write(json.dumps({"address": server.listening_address}) + "\n")
    sys.stdout.flush()
    sys.stdin.read()


if __name__ == "__main__":
    _child()
