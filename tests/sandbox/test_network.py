"""What may be reached: the rules as they are written, names and addresses in all their forms."""

from __future__ import annotations

import contextlib
import socket

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codeact.errors import UsageError
from codeact.sandbox import Sandbox as make_sandbox
from codeact.sandbox.network import HTTP, HTTPS, Network, Rule, host_name, is_address, is_public

LABEL = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?", fullmatch=True)
NAME = st.builds(lambda labels, last: ".".join([*labels, last]), st.lists(LABEL, max_size=3), st.just("example"))
PORT = st.none() | st.integers(1, 65535)


@given(NAME, st.booleans(), PORT, st.none() | st.ip_addresses(), PORT)
def test_a_rule_is_read_as_it_was_written(
    name: str, subdomains: bool, port: int | None, address: object, address_port: int | None
) -> None:
    shown = f"{'*.' if subdomains else ''}{name}{f':{port}' if port else ''}"
    pin = f"[{address}]" if ":" in str(address) else str(address)
    text = shown if address is None else f"{shown}={pin}{f':{address_port}' if address_port else ''}"
    rule = Rule.parse(f" {text.upper()} ")
    assert str(rule) == shown
    assert (rule.address, rule.address_port) == ((None, None) if address is None else (str(address), address_port))
    assert rule.covers(f"sub.{name}") is subdomains and rule.covers(name) is not subdomains
    assert not rule.covers(f"{name}.evil.org") and not rule.covers(f"x{name}")


@given(st.text(st.characters(codec="utf-8"), max_size=60))
@example("[::1%25x]:1=2")
@example("①②⑦.0.0.1")
@example("xn--")
def test_any_text_is_a_rule_or_a_reason(text: str) -> None:
    try:
        rule = Rule.parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert rule.host.isascii() and not is_address(rule.host) and host_name(rule.host) == rule.host


@given(st.lists(st.integers(0, 1 << 32), min_size=1, max_size=4), st.lists(st.sampled_from("dxo"), min_size=4))
def test_whatever_inet_aton_takes_is_no_name(numbers: list[int], bases: list[str]) -> None:
    text = ".".join({"d": "{}", "x": "0x{:X}", "o": "0{:o}"}[b].format(n) for n, b in zip(numbers, bases, strict=False))
    with contextlib.suppress(OSError):
        socket.inet_aton(text)
        with pytest.raises(ValueError, match="IP address"):
            host_name(text)


@pytest.mark.parametrize("text", ["１２７.0.0.1", "127.0.0.１", "0x7f。1", "[::1]", "::1", "fe80::1%eth0", "1.2.3.4."])
def test_addresses_in_disguise_are_no_names(text: str) -> None:
    with pytest.raises(ValueError, match=r"IP address|not a host name"):
        host_name(text)


@pytest.mark.parametrize(
    ("text", "name"),
    [("A.Org.", "a.org"), ("Bücher.example", "xn--bcher-kva.example"), ("a。org", "a.org"), ("1.com", "1.com")],
)
def test_names_have_one_form(text: str, name: str) -> None:
    assert host_name(text) == name


@pytest.mark.parametrize(
    ("rules", "reason"),
    [
        ("1.2.3.4", "IP address"), ("0x7f.1:80", "IP address"), ("[::1]:443", "IP address"), ("::1", "IP address"),
        ("https://a.org/x", "not a URL"), ("a.org/", "not a URL"), ("me@a.org", "not a URL"), ("*", "--network host"),
        ("*.*", "--network host"), ("a.*.org", "not a host"), ("*a.org", "not a host"), ("a b", "not a host"),
        ("a..org", "not a host name"), ("-a.org", "not a host"), ("a.org:", "not a port"), ("a.org:0", "not a port"),
        ("a.org:65536", "not a port"), ("a.org:٣", "not a port"), ("a.org=b.org", "not an IP address"),
        ("a.org=127.1", "not an IP address"), ("a.org=", "not an IP address"), ("a.org=1.2.3.4:x", "not a port"),
        ("a.org=fe80::1%lo", "zone"), ("localhost:80=127.0.0.1", "session itself"), ("x" * 300, "not a host name"),
    ],
)  # fmt: skip
def test_what_is_no_rule_is_named_with_its_reason(rules: str, reason: str) -> None:
    with pytest.raises(UsageError, match=r"^--allow-net ") as raised:
        Network.of(allow_net=f"good.org,{rules}")
    assert reason in str(raised.value) and "\n" not in str(raised.value)


def test_contradictions_are_named() -> None:
    with pytest.raises(UsageError, match="contradict"):
        make_sandbox("local", network="host", allow_net="a.org")
    with pytest.raises(UsageError, match="unsafe-process has none"):
        make_sandbox("unsafe-process", allow_net=["a.org"])
    with pytest.raises(UsageError, match="choose none or host"):
        make_sandbox("local", network="bridge")


def test_the_first_rule_that_fits_decides() -> None:
    network = Network.of(allow_net=["a.org:8443,*.a.org=10.0.0.5", "x.a.org", "a.org"])
    assert network.find("a.org", 8443, HTTPS) and network.find("a.org", 443, HTTPS) and network.find("a.org", 80, HTTP)
    assert network.find("a.org", 443, HTTP) is None and network.find("a.org", 80, HTTPS) is None
    rule = network.find("x.a.org", 443, HTTPS)
    assert rule is not None and rule.address == "10.0.0.5"
    assert network.listed == "a.org:8443, *.a.org, x.a.org, a.org" and "10.0.0.5" not in network.description


@given(st.ip_addresses(v=4))
def test_an_address_in_another_is_judged_as_itself(address: object) -> None:
    public = is_public(str(address))
    assert is_public(f"::ffff:{address}") is public and is_public(f"64:ff9b::{address}") is public


def test_addresses_of_the_internet_are_public() -> None:
    assert all(map(is_public, ("8.8.8.8", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e")))
