"""The OpenAPI document as a page of plain HTML, without scripts and without anything from elsewhere."""

from __future__ import annotations

import json
from html import escape
from typing import Any

POLICY = "default-src 'none'; style-src 'unsafe-inline'"

_STYLE = """body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font-family: ui-monospace, monospace; font-size: 0.9em }
pre { overflow-x: auto; background: #8881; padding: 1rem }
h2 { margin-top: 2rem } :root { color-scheme: light dark }"""


def rendered(document: dict[str, Any]) -> str:
    """The page."""
    info = document["info"]
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(info['title'])}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1><p>{escape(info.get('description', ''))}</p>",
        "<p>The same for programs: <a href=openapi.json>openapi.json</a>.</p>",
    ]
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            parts.append(_operation(path, method, operation))
    parts.append("<h2>Values</h2>")
    for name, schema in document.get("components", {}).get("schemas", {}).items():
        text = escape(json.dumps(schema, indent=2, ensure_ascii=False))
        parts.append(
            f"<details id='{escape(name)}'><summary><code>{escape(name)}</code></summary><pre>{text}</pre></details>"
        )
    return "\n".join(parts)


def _operation(path: str, method: str, operation: dict[str, Any]) -> str:
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    takes = _named(body)
    gives = []
    for status, response in operation.get("responses", {}).items():
        if status.startswith("2"):
            content = response.get("content", {})
            gives += [f"{status} {_named(content[kind].get('schema', {})) or escape(kind)}" for kind in content] or [
                status
            ]
    lines = [
        f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>",
        f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>",
        f"<p>{'takes ' + takes + '; ' if takes else ''}gives {', '.join(gives)}</p>",
    ]
    return "".join(lines)


def _named(schema: dict[str, Any]) -> str:
    """Links to the values that a schema names."""
    named = [schema.get("$ref", ""), *(option.get("$ref", "") for option in schema.get("anyOf", ()))]
    names = [escape(reference.rpartition("/")[2]) for reference in named if reference]
    return " or ".join(f"<a href='#{name}'>{name}</a>" for name in names)
