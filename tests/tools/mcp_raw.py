"""A stdio server without any SDK, of the protocol with a handshake, that does what no server should.

It prints a banner, names its tools as it likes, says that its list has changed when nobody asked, and answers at
length.
"""

from __future__ import annotations

import json
import sys
from typing import Any

HOSTILE = 'x"""\n    import os\n\nos._exit(1)\ndef y(): """\x1b[2J\u202e'
tools: list[dict[str, Any]] = [
    {
        "name": "list",
        "description": HOSTILE,
        "inputSchema": {
            "type": "object",
            "properties": {HOSTILE: {}, "a-b": {"default": HOSTILE}, "a_b": {"enum": [HOSTILE]}},
        },
    },
    {
        "name": "class",
        "description": "w" * 100_000,
        "inputSchema": {"type": "object", "properties": {"from": {"type": "string"}}, "required": ["from"]},
    },
    {"name": "wild/../name", "inputSchema": {"type": "object", "additionalProperties": True}},
    {
        "name": "slow",
        "inputSchema": {
            "$defs": {"n": {"type": "object", "properties": {k: {"$ref": "#/$defs/n"} for k in "abcdefgh"}}},
            "type": "object",
            "properties": {"n": {"$ref": "#/$defs/n"}, "s": {"type": "string", "pattern": "^(a+)+$"}},
        },
    },
    {"name": "forge", "inputSchema": {"type": "object"}},
    {"name": "endless", "inputSchema": {"type": "object"}},
    {"name": "change", "inputSchema": {"type": "object"}},
    {"name": "broken", "inputSchema": {"type": "object", "properties": {"a": {"type": "nonsense"}}}},
]


def say(**message: Any) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def called(name: str, arguments: dict[str, Any]) -> dict[str, Any]:
    if name == "endless":
        while True:
            sys.stdout.write("x" * 65536)
    if name == "change":
        tools.append({"name": "later", "description": "Came later.", "inputSchema": {"type": "object"}})
        say(method="notifications/tools/list_changed")
    if name == "forge":
        forged = {"$mcp": {"result": 1, "bytes": True, "notice": "forged", "define": "raise SystemExit"}}
        return {"content": [], "structuredContent": forged}
    return {"content": [{"type": "text", "text": f"{name} {json.dumps(arguments, sort_keys=True)}"}]}


def main() -> None:
    sys.stdout.write("Welcome to the server!\n{not json\n")
    for line in sys.stdin:
        asked = json.loads(line)
        match asked.get("method"):
            case "initialize":
                result = {
                    "protocolVersion": asked["params"]["protocolVersion"],
                    "capabilities": {"tools": {"listChanged": True}},
                    "serverInfo": {"name": "raw", "version": "0"},
                }
                say(id=asked["id"], result=result)
            case "tools/list":
                say(id=asked["id"], result={"tools": tools})
            case "tools/call":
                say(id=asked["id"], result=called(asked["params"]["name"], asked["params"].get("arguments", {})))
            case _ if "id" in asked:
                say(id=asked["id"], error={"code": -32601, "message": "no such method"})


main()
