"""How large a model's window is: from its card, or from what its server says."""

from __future__ import annotations

import re

from codeact.models.discover import model_entries

OLLAMA_DEFAULT = 4096
"""What Ollama gives a model where nobody set more. It cuts longer prompts silently, so a guess must not be higher."""

_CARDS: tuple[tuple[str, int], ...] = (
    (r"gpt-4\.1", 1_047_576),
    (r"gpt-4o|chatgpt-4o|gpt-4-turbo|o1-mini", 128_000),
    (r"gpt-5", 400_000),
    (r"o[134]\b", 200_000),
    (r"gpt-oss", 131_072),
    (r"gpt-3\.5-turbo", 16_385),
    (r"claude", 200_000),
    (r"gemini-[12]", 1_048_576),
    (r"codeact(agent)?-llama|codellama-.*python|llama-2|vicuna", 4096),
    (r"codeact(agent)?-mistral|mistral-7b", 32_768),
    (r"codellama", 16_384),
    (r"(meta-)?llama-?3\.[1-3]", 131_072),
    (r"(meta-)?llama-?3", 8192),
    (r"qwen2\.5-coder-(0\.5b|1\.5b|3b)|qwen2\.5", 32_768),
    (r"qwen3", 32_768),
    (r"gemma-?2", 8192),
    (r"gemma-?3.1b", 32_768),
    (r"gemma-?3", 131_072),
    (r"phi-?3.*4k", 4096),
    (r"phi-?4", 16_384),
    (r"deepseek-(chat|coder|v3|r1)", 65_536),
    (r"smollm2", 8192),
)
"""The beginning of a model's name, and the tokens that its publisher states. Where several are known for one family,
the smallest: a server's refusal costs less than a prompt that it cuts."""


def card_window(name: str) -> int | None:
    """What the model's card says, by its name; None for a model that is not known."""
    lowered = name.lower().rsplit("/", 1)[-1]
    return next((window for pattern, window in _CARDS if re.match(pattern, lowered)), None)


def told_window(props: object, models: object, name: str) -> int | None:
    """What llama.cpp's ``/props`` or the entry of the model in ``/v1/models`` (vLLM and others) say."""
    settings = props.get("default_generation_settings") if isinstance(props, dict) else None
    candidates = [settings.get("n_ctx")] if isinstance(settings, dict) else []
    for entry in model_entries(models):
        if entry.get("id") == name:
            candidates += [entry.get(key) for key in ("max_model_len", "context_length")]
    return next(filter(None, map(_positive, candidates)), None)


def ollama_window(loaded: object, shown: object, name: str) -> int | None:
    """What Ollama's ``/api/ps`` says of a loaded model, else the ``num_ctx`` of ``/api/show`` or Ollama's default."""
    running = loaded.get("models") if isinstance(loaded, dict) else None
    for entry in running if isinstance(running, list) else []:
        if isinstance(entry, dict) and entry.get("name") in (name, f"{name}:latest"):
            if window := _positive(entry.get("context_length")):
                return window
    if not isinstance(shown, dict):
        return None
    found = re.search(r"^num_ctx\s+(\d{1,9})\s*$", str(shown.get("parameters") or ""), re.MULTILINE)
    if found and (window := _positive(int(found[1]))):
        return window
    details = shown.get("model_info")
    trained = (
        [_positive(v) for k, v in details.items() if str(k).endswith(".context_length")]
        if isinstance(details, dict)
        else []
    )
    return min([OLLAMA_DEFAULT, *filter(None, trained)])


def _positive(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else None
