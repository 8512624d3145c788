"""What came of many attempts, by family."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from codeact.evals.sample import Sample

HEAD = ("family", "tasks", "solved", "%", "turns", "tokens", "errors repaired", "looped", "seconds")
"""``turns`` and ``tokens`` are means, ``seconds`` the median; ``errors repaired``: solved of the runs with errors."""


def report(samples: Iterable[Sample]) -> str:
    """A table as text: a line a family, then a line a split where there are several, then all."""
    samples = list(samples)
    if not samples:
        return "no task was attempted"
    rows = [_row(name, group) for name, group in _grouped(samples, "family")]
    splits = _grouped(samples, "split")
    if len(splits) > 1:
        rows += [_row(f"({name})", group) for name, group in splits]
    rows.append(_row("all", samples))
    widths = [max(len(row[place]) for row in (HEAD, *rows)) for place in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) if place == 0 else cell.rjust(width) for place, (cell, width) in
                  enumerate(zip(row, widths, strict=True))).rstrip()
        for row in (HEAD, *rows)
    ]  # fmt: skip
    return "\n".join(lines)


def _grouped(samples: Sequence[Sample], by: str) -> list[tuple[str, list[Sample]]]:
    found: dict[str, list[Sample]] = {}
    for sample in samples:
        found.setdefault(getattr(sample, by), []).append(sample)
    return sorted(found.items())


def _row(name: str, samples: Sequence[Sample]) -> tuple[str, ...]:
    solved = sum(sample.solved for sample in samples)
    failed = [sample for sample in samples if sample.errors]
    return (
        name,
        str(len(samples)),
        str(solved),
        f"{100 * solved / len(samples):.0f}",
        f"{statistics.fmean(s.turns for s in samples):.1f}",
        f"{statistics.fmean(s.usage.prompt_tokens + s.usage.completion_tokens for s in samples):.0f}",
        f"{sum(s.repaired for s in failed)}/{len(failed)}",
        str(sum(s.looped for s in samples)),
        f"{statistics.median(s.seconds for s in samples):.1f}",
    )
