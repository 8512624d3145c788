"""Schemas of untrusted servers as Python, and the file of servers: whatever they say."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeact.errors import UsageError
from codeact.tools.mcp.config import HttpServer, StdioServer, parse, read
from codeact.tools.mcp.functions import stub
from codeact.tools.mcp.process import environment
from codeact.tools.mcp.schema import Root, Schema, doc_of, identifier, type_of


def an_object(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": required}


@pytest.mark.parametrize(
    ("schema", "shown"),
    [
        ({"type": "string"}, "str"),
        ({"type": ["integer", "null"]}, "int | None"),
        ({"type": "array", "items": {"type": "number"}}, "list[float]"),
        ({"type": "array"}, "list"),
        ({"enum": ["a", 1, None]}, "Literal['a', 1, None]"),
        ({"const": "x"}, "Literal['x']"),
        ({"anyOf": [{"type": "string"}, {"type": "null"}, {"type": "string"}]}, "str | None"),
        ({"type": "object", "additionalProperties": {"type": "boolean"}}, "dict[str, bool]"),
        ({"type": "object", "properties": {"a": {}}}, "dict"),
        ({"$ref": "#/$defs/n"}, "int"),
        ({"$ref": "https://example.org/schema"}, "Any"),
        ({"enum": ["long" * 100]}, "Any"),
        ({}, "Any"),
        (True, "Any"),
        ({"type": "nonsense"}, "Any"),
    ],
)
def test_types(schema: Any, shown: str) -> None:
    assert type_of(schema, Root({"$defs": {"n": {"type": "integer"}}})) == shown


def test_required_come_first_and_names_become_identifiers() -> None:
    schema = Schema(
        an_object(["class", "b-c"], a={"type": "string", "default": "x"}, **{"b-c": {}, "b_c": {}, "class": {}})
    )
    assert schema.signature == "(*, b_c: Any, class_: Any, a: str = 'x', b_c_2: Any = None)"
    assert [parameter.key for parameter in schema.parameters] == ["b-c", "class", "a", "b_c"]


def test_what_was_left_out_is_not_sent() -> None:
    schema = Schema(an_object(["a"], a={}, b={"default": 1}, c={}, d={"type": ["string", "null"]}))
    assert schema.given({"a": None, "b": 1, "c": None, "d": None}) == {"a": None}
    assert schema.given({"a": 1, "b": True, "c": 0, "d": ""}) == {"a": 1, "b": True, "c": 0, "d": ""}


def test_wrong_arguments_are_told_by_the_names_of_the_signature() -> None:
    schema = Schema(an_object(["from"], **{"from": {"type": "integer"}, "to": an_object(["x"], x={"type": "string"})}))
    assert schema.problems({"from": 1}) == ""
    told = schema.problems({"from": "1", "to": {"x": 2}})
    assert told == "from_: '1' is not of type 'integer'; to.x: 2 is not of type 'string'"
    assert schema.problems({}) == "call: 'from' is a required property"


def test_a_pattern_of_a_server_is_not_run_here() -> None:
    schema = Schema(an_object([], a={"type": "string", "pattern": "^(a+)+$"}))
    assert schema.problems({"a": "a" * 60 + "b"}) == ""


def test_a_schema_that_contains_itself_is_cut() -> None:
    node = {"type": "object", "properties": {letter: {"$ref": "#/$defs/n"} for letter in "abcdefghijklmnopqrst"}}
    schema = Schema({"$defs": {"n": node}, **an_object([], **{str(i): {"$ref": "#/$defs/n"} for i in range(90)})})
    assert len(doc_of("d", schema.parameters, {"$ref": "#/$defs/n", "$defs": {"n": node}}, "From x.")) < 7000
    assert Schema({"$ref": "#", "$defs": {}}).problems({"a": 1}) == ""


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
keywords = st.sampled_from(
    ["type", "properties", "required", "enum", "const", "anyOf", "items", "default", "description", "$ref",
     "additionalProperties", "title"]
)  # fmt: skip
kinds = st.sampled_from(["object", "array", "string", "integer", "#", "#/properties", "nonsense"])
schemas = st.recursive(
    json_values | kinds,
    lambda inner: (
        st.dictionaries(keywords, inner | kinds, max_size=5)
        | st.dictionaries(st.text(max_size=10), inner, max_size=4)
        | st.lists(inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(keywords, schemas, max_size=6), st.dictionaries(st.text(max_size=8), schemas, max_size=4), st.text()
)
def test_whatever_a_schema_says_the_stub_is_one_function_that_calls_the_host(
    extra: dict[str, Any], properties: dict[str, Any], described: str
) -> None:
    schema = Schema({**extra, "type": "object", "properties": properties})
    output = {"type": "object", **extra}
    doc = doc_of(described, schema.parameters, output, "From x.")
    name = identifier(described)
    source = stub(name, schema.parameters, schema.takes_more, " -> 'Any'", doc, name, "{}")
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef) and function.name == name
    expression, imported, returned = function.body
    assert isinstance(expression, ast.Expr) and ast.literal_eval(expression.value) == doc
    assert isinstance(imported, ast.ImportFrom) and isinstance(returned, ast.Return)
    for default in (*function.args.kw_defaults, *function.args.defaults):
        assert default is None or ast.literal_eval(default) is not ...
    assert all(isinstance(a.annotation, ast.Constant) for a in function.args.kwonlyargs)
    assert len(doc) < 7000
    schema.problems(schema.given({key: None for key in properties}))


@given(st.text(), st.sets(st.text(), max_size=3))
def test_names_are_identifiers_that_are_free(text: str, taken: set[str]) -> None:
    name = identifier(text, taken)
    assert name.isidentifier() and name.isascii() and name not in taken
    ast.parse(f"def {name}(): ...")


# --- the file -----------------------------------------------------------------------------------------------------


def test_the_common_form_is_read() -> None:
    found = parse(
        {
            "mcpServers": {
                "files": {"command": "mcp-files", "args": ["--key", "${KEY}"], "env": {"A": "x${KEY}y"}, "cwd": "/tmp"},
                "web": {"type": "http", "url": "https://e.example/mcp", "headers": {"Authorization": "Bearer ${KEY}"}},
                "other": {
                    "url": "http://e.example",
                    "headers": {"X": "${NONE:-none}"},
                    "autoApprove": [],
                    "timeout": 5,
                },
                "off": {"command": "x", "disabled": True},
            }
        },
        {"KEY": "k"},
    )
    files, web, other = found["files"], found["web"], found["other"]
    assert isinstance(files, StdioServer) and files.args == ("--key", "k") and files.env == {"A": "xky"}
    assert isinstance(web, HttpServer) and web.headers == {"Authorization": "Bearer k"}
    assert isinstance(other, HttpServer) and other.headers == {"X": "none"} and other.timeout == 5
    assert "off" not in found


@pytest.mark.parametrize(
    ("servers", "told"),
    [
        ([], 'an object {"mcpServers"'),
        ({"a": "x"}, "the MCP server 'a' must be an object"),
        ({"a": {}}, "the MCP server 'a' needs either"),
        ({"a": {"command": "x", "url": "http://x"}}, "the MCP server 'a' needs either"),
        ({"a": {"type": "sse", "url": "http://x"}}, "the retired SSE transport"),
        ({"a": {"type": "carrier pigeon", "url": "http://x"}}, "unknown \"type\" 'carrier pigeon'"),
        ({"a": {"type": "stdio", "url": "http://x"}}, 'is of "type" \'stdio\' and has "url"'),
        ({"a": {"url": "ftp://x"}}, "the MCP server 'a': url: string should match pattern"),
        ({"a": {"command": ""}}, "the MCP server 'a': command: string should have at least 1 character"),
        ({"a": {"command": "x", "args": "y"}}, "the MCP server 'a': args: input should be a valid"),
        ({"a": {"command": "x", "timeout": -1}}, "the MCP server 'a': timeout: input should be greater than 0"),
        ({"a": {"url": "http://x", "headers": {"A": "${NOT_SET}"}}}, "needs the environment variable NOT_SET: set it"),
        ({"\n": {"command": "x"}}, "is no name for an MCP server"),
    ],
)
def test_what_is_wrong_with_a_file_is_told(servers: object, told: str, tmp_path: Path) -> None:
    file = tmp_path / "mcp.json"
    file.write_text(json.dumps({"mcpServers": servers}))
    with pytest.raises(UsageError) as caught:
        read(file)
    assert told in str(caught.value) and str(file) in str(caught.value) and "\n" not in str(caught.value)


def test_a_secret_is_not_in_the_message_about_it() -> None:
    config = {"mcpServers": {"a": {"url": "http://x", "headers": {"A": ["Bearer ${KEY}"]}}}}
    with pytest.raises(UsageError) as caught:
        parse(config, {"KEY": "s3cret"})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"), [("{", "is not JSON"), ("[" * 100_000, "is not JSON"), ("\xff", "is not JSON")]
)
def test_a_file_that_is_no_json_is_told(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "mcp.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=told):
        read(tmp_path / "mcp.json")
    with pytest.raises(UsageError, match="there is no file"):
        read(tmp_path / "none.json")


def test_a_server_inherits_little() -> None:
    ours = {"PATH": "/bin", "HOME": "/h", "OPENAI_API_KEY": "k", "AWS_SECRET": "k"}
    config = StdioServer(command="x", env={"HOME": "/other", "TOKEN": "t"})
    assert environment(config, ours) == {"PATH": "/bin", "HOME": "/other", "TOKEN": "t"}
