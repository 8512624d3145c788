"""What all tests share."""

from __future__ import annotations

from hypothesis import settings

# Times vary on a busy machine, and a failure must be the same wherever it is repeated.
settings.register_profile("codeact", deadline=None, derandomize=True, database=None)
settings.load_profile("codeact")
