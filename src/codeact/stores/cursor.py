"""The place in a list where the next page begins: what the last one shown was sorted by."""

from __future__ import annotations

import base64
import json
import math
from dataclasses import dataclass

from codeact.errors import StoreRefused


@dataclass(frozen=True, slots=True)
class Cursor:
    pinned: bool
    updated: float
    id: str

    def text(self) -> str:
        """It as text that can stand in an address."""
        return base64.urlsafe_b64encode(json.dumps([self.pinned, self.updated, self.id]).encode()).decode()

    @classmethod
    def read(cls, text: str) -> Cursor:
        """The cursor that this text stands for. Raises StoreRefused: it comes from a browser."""
        try:
            match json.loads(base64.b64decode(text[:400], altchars=b"-_", validate=True)):
                case [bool(pinned), float(updated), str(id)] if math.isfinite(updated) and id.isalnum():
                    return cls(pinned, updated, id)
        except (ValueError, RecursionError):
            pass
        raise StoreRefused("this cursor is broken: begin again without one")
