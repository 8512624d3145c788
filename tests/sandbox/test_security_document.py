"""docs/security.md lists every attack. ``python -m tests.sandbox.test_security_document`` prints the list anew."""

from __future__ import annotations

from codeact.sandbox import attacks
from codeact.sandbox.canaries import ALL, DOCTOR, FAMILIES
from tests.sandbox.ordinary import REPOSITORY
from tests.sandbox.test_attacks import SUCCEED_AS_ROOT, SUCCEED_WITHOUT_A_BOUNDARY
from tests.sandbox.test_canaries import NOTICED

DOCUMENT = REPOSITORY / "docs" / "security.md"
BEGIN, END = "<!-- attacks: begin -->", "<!-- attacks: end -->"


def table() -> str:
    noticed = {*SUCCEED_WITHOUT_A_BOUNDARY, *SUCCEED_AS_ROOT, *NOTICED}
    quick = {canary.name for canary in DOCTOR}
    lines = []
    for family in FAMILIES:
        members = [canary for canary in ALL if canary.family == family]
        lines += ["", f"**{family}** ({len(members)})", "", "| attack | what it tries | doctor | seen to succeed |"]
        lines.append("|---|---|---|---|")
        for canary in members:
            marks = ["yes" if canary.name in names else "" for names in (quick, noticed)]
            lines.append(f"| `{canary.name}` | {canary.purpose} | {' | '.join(marks)} |")
    return "\n".join([*lines, ""])


def test_document_lists_every_attack() -> None:
    text = DOCUMENT.read_text()
    listed = text.partition(BEGIN)[2].partition(END)[0]
    assert listed.strip() == table().strip(), "print it anew: python -m tests.sandbox.test_security_document"
    assert f"{len(attacks.ATTACKS)} attacks" in text


if __name__ == "__main__":
    print(table())  # noqa: T201
