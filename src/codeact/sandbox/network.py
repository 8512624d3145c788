"""What of the network a session may reach: nothing, hosts by name, or what the host reaches.

A rule is ``[*.]NAME[:PORT][=ADDRESS[:PORT]]``:

    api.example.org                 HTTPS on port 443 and plain HTTP on port 80
    *.example.org                   its subdomains, not the name itself
    api.example.org:8443            that port only
    mirror.example.org=10.0.0.5     the name is that address, private or not, whatever a resolver says
    mirror:80=127.0.0.1:8080        and its port 80 is that port there

Names are compared in their normal form: lower case, IDNA, no dot at the end. An IP address is no name, in any of the
notations that ``inet_aton`` takes, and cannot be allowed.

Pure: nothing here opens a connection. Not protected: what is sent to a host that is allowed.

Sources: inet_aton(3), RFC 5890 (IDNA), RFC 6890 (special addresses), RFC 6052 (NAT64).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Literal

from codeact.contracts import Value
from codeact.errors import UsageError

HTTP, HTTPS = 80, 443

_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"\d+|0[xX][0-9a-fA-F]*")
_LISTED = 20

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_INTERNET_6 = ipaddress.IPv6Network("2000::/3")  # all that is given out for the internet; the rest has other uses
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_REFUSED = [
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",  # protocol assignments; a metadata service of one cloud among them
        "192.88.99.0/24",  # relays of 6to4
        "168.63.129.16/32",  # the host agent of one cloud
        "2001::/32",  # Teredo
        "3fff::/20",  # documentation
    )
]


def is_address(text: str) -> bool:
    """Whether this is an IP address in any notation that a resolver takes for one, with or without brackets.

    A last label that is a number makes an IPv4 address of the whole, or nothing: no name ends in one.
    """
    bare = text.strip("[]").partition("%")[0].removesuffix(".")
    if _NUMBER.fullmatch(bare.rpartition(".")[2]):
        return True
    try:
        ipaddress.ip_address(bare)
    except ValueError:
        return False
    return True


def host_name(text: str) -> str:
    """The normal form of a host's name. Raises ValueError with the reason where it is none."""
    if is_address(text):
        raise ValueError("an IP address, not a name")
    if not text.isascii():
        text = _ascii(text)
    name = text.lower().removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError("not a host name")
    if is_address(name):  # digits of another script
        raise ValueError("an IP address, not a name")
    return name


def _ascii(text: str) -> str:
    import idna  # its tables are large, and few names need them

    try:
        return idna.encode(text[:300], uts46=True).decode()
    except UnicodeError as error:
        raise ValueError("not a host name") from error


def is_public(address: str) -> bool:
    """Whether an address is one of the open internet.

    False for what is private, loopback, link-local, shared, multicast, reserved or a cloud's metadata service, also
    where IPv6 carries such an address in one of its forms (mapped, NAT64, 6to4). Raises ValueError for no address.
    """
    found: _Address = ipaddress.ip_address(address)
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped is not None:
            return is_public(str(found.ipv4_mapped))
        if found in _NAT64:
            return is_public(str(ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)))
        if found.scope_id or found not in _INTERNET_6 or found.sixtofour is not None:
            return False
    return found.is_global and not found.is_multicast and not any(found in network for network in _REFUSED)


class Rule(Value):
    """One allowed name. ``port`` None: 443 and 80. ``address`` pins the name, ``address_port`` the port there."""

    host: str
    subdomains: bool = False
    port: int | None = None
    address: str | None = None
    address_port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Raises ValueError with the reason."""
        name, pinned, pin = text.strip().partition("=")
        if "/" in name or "@" in name:
            raise ValueError("write the host's name alone, not a URL")
        subdomains = name.startswith("*.")
        name = name.removeprefix("*.")
        if name == "*":
            raise ValueError("every host cannot be allowed by name; for the whole network there is --network host")
        if is_address(name) or is_address(name.rpartition(":")[0]):
            raise ValueError("an IP address cannot be allowed; give it a name: NAME=ADDRESS")
        name, colon, port = name.partition(":")
        host = host_name(name)
        if host == "localhost" or host.endswith(".localhost"):
            raise ValueError("localhost is the session itself; give the server another name: NAME=127.0.0.1:PORT")
        address, address_port = _pin(pin) if pinned else (None, None)
        return cls(
            host=host,
            subdomains=subdomains,
            port=_port(port) if colon else None,
            address=address,
            address_port=address_port,
        )

    def covers(self, host: str) -> bool:
        return host.endswith(f".{self.host}") if self.subdomains else host == self.host

    def __str__(self) -> str:
        """As it was written, without the address: what a model may know."""
        return f"{'*.' if self.subdomains else ''}{self.host}{f':{self.port}' if self.port else ''}"


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise ValueError(f"{text!r} is not a port")
    return int(text)


def _pin(text: str) -> tuple[str, int | None]:
    """``ADDRESS[:PORT]``, an IPv6 address with a port in brackets."""
    bracketed = re.fullmatch(r"\[([^\]]*)\](?::(.*))?", text)
    if bracketed:
        address, port = bracketed[1], bracketed[2]
    elif text.count(":") == 1:
        address, port = text.split(":")
    else:
        address, port = text, None
    try:
        found = str(ipaddress.ip_address(address))
    except ValueError as error:
        raise ValueError(f"{address!r} is not an IP address") from error
    if "%" in found:
        raise ValueError("an address with a zone cannot be pinned")
    return found, None if port is None else _port(port)


class Network(Value):
    """What a session may reach: ``none``, the hosts of ``rules`` (``names``), or what the ``host`` reaches."""

    kind: Literal["none", "names", "host"] = "none"
    rules: tuple[Rule, ...] = ()

    @classmethod
    def of(cls, network: str = "none", allow_net: str | Iterable[str] = (), sandbox: str = "local") -> Network:
        """From what a user writes; ``allow_net`` is names, or names joined by commas. Raises UsageError."""
        texts = [allow_net] if isinstance(allow_net, str) else list(allow_net)
        names = [name for text in texts for name in text.split(",") if name.strip()]
        if network not in ("none", "host"):
            raise UsageError(f"there is no network {network!r}: choose none or host")
        if not names:
            return cls(kind="host" if network == "host" else "none")
        if network == "host":
            raise UsageError("--network host and --allow-net contradict each other: choose one (--network none)")
        if sandbox == "unsafe-process":
            raise UsageError("--allow-net needs a boundary, and unsafe-process has none: use --sandbox local")
        rules = []
        for name in names:
            try:
                rules.append(Rule.parse(name))
            except ValueError as error:
                raise UsageError(f"--allow-net {name.strip()}: {error}") from error
        return cls(kind="names", rules=tuple(rules))

    def find(self, host: str, port: int, usual: int) -> Rule | None:
        """The first rule that allows this host (in its normal form) and port; ``usual``: without a port in the rule."""
        for rule in self.rules:
            if rule.covers(host) and port == (rule.port or usual):
                return rule
        return None

    @property
    def listed(self) -> str:
        """The allowed names, for people and models."""
        names = list(dict.fromkeys(map(str, self.rules)))
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        return ", ".join(names[:_LISTED]) + more

    @property
    def description(self) -> str:
        """What a model should know."""
        match self.kind:
            case "none":
                return "There is no network."
            case "host":
                return "The network is that of the machine."
            case "names":
                return (
                    f"Only these hosts can be reached, over HTTP and HTTPS: {self.listed}. "
                    "They are reached through the proxy that the variable https_proxy names; names do not resolve here."
                )
