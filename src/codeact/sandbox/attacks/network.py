"""Attacks on the network."""

from __future__ import annotations

import contextlib
import os
import socket
import struct

from codeact.sandbox.attacks.ground import Facts, attack, connect


@attack("network", harmless=True, by_network=True)
def tcp_to_loopback(facts: Facts) -> str | None:
    """Connect to a server on the host's 127.0.0.1."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, ("127.0.0.1", facts["port"]))


@attack("network", harmless=True, by_network=True)
def tcp_to_address(facts: Facts) -> str | None:
    """Connect to a server on the host's own address."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, (facts["address"], facts["address_port"]))


@attack("network", harmless=True, by_network=True)
def udp_to_loopback(facts: Facts) -> str | None:
    """Send to and hear from a UDP server on the host."""
    return connect(socket.SOCK_DGRAM, socket.AF_INET, ("127.0.0.1", facts["udp_port"]), b"ping")


@attack("network", by_network=True)
def tcp_to_internet(facts: Facts) -> str | None:
    """Connect to a server of the internet."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, ("1.1.1.1", 443))


@attack("network", by_network=True)
def tcp_to_internet_6(facts: Facts) -> str | None:
    """The same over IPv6."""
    return connect(socket.SOCK_STREAM, socket.AF_INET6, ("2606:4700:4700::1111", 443))


@attack("network", by_network=True)
def udp_to_internet(facts: Facts) -> str | None:
    """Send a DNS query to a server of the internet."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"\0\1\1\0\0\1\0\0\0\0\0\0\7example\3com\0\0\1\0\1", ("1.1.1.1", 53))
    return "a packet left"


@attack("network", by_network=True)
def metadata_service(facts: Facts) -> str | None:
    """Connect to the metadata service of a cloud."""
    return connect(socket.SOCK_STREAM, socket.AF_INET, ("169.254.169.254", 80))


@attack("network", by_network=True)
def resolve_name(facts: Facts) -> str | None:
    """Resolve a name."""
    return str(socket.getaddrinfo("example.com", 80))


@attack("network", harmless=True, by_network=True)
def interfaces(facts: Facts) -> str | None:
    """See a network interface other than the session's own loopback."""
    found = [name for _, name in socket.if_nameindex() if name != "lo"]
    tunnels = ("tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0")
    found = [name for name in found if name not in tunnels]  # the kernel puts these, down, into every namespace
    return str(found) if found else None


@attack("network")
def add_interface(facts: Facts) -> str | None:
    """Make a network interface over netlink."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.settimeout(2)
        kind = struct.pack("=HH5s3x", 9, 1, b"dummy")
        body = struct.pack("=BxHiII", 0, 0, 0, 0, 0) + struct.pack("=HH", 4 + len(kind), 18) + kind
        link.send(struct.pack("=IHHII", 16 + len(body), 16, 0x605, 1, 0) + body)  # RTM_NEWLINK, create, acknowledge
        answer = -struct.unpack_from("=i", link.recv(4096), 16)[0]
    if answer:
        raise OSError(answer, os.strerror(answer))
    return "made an interface"


@attack("network", harmless=True)
def raw_socket(facts: Facts) -> str | None:
    """Open a raw IP socket."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP):
        return "opened"


@attack("network", harmless=True)
def packet_socket(facts: Facts) -> str | None:
    """Open a packet socket."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW):
        return "opened"


@attack("network", harmless=True)
def virtual_machine_socket(facts: Facts) -> str | None:
    """Open a socket to the hypervisor, which no network namespace holds back."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM):
        return "opened"


@attack("network")
def kernel_cryptography(facts: Facts) -> str | None:
    """Open a socket to the kernel's ciphers, a large attack surface."""
    with socket.socket(socket.AF_ALG, socket.SOCK_SEQPACKET):
        return "opened"


@attack("network")
def firewall(facts: Facts) -> str | None:
    """Open a netlink socket to the packet filter."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12):
        return "opened"


@attack("network", harmless=True)
def kernel_events(facts: Facts) -> str | None:
    """Open a netlink socket to the kernel's device events."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15):
        return "opened"


@attack("network")
def rare_socket_families(facts: Facts) -> str | None:
    """Open a socket of any other family."""
    for family in range(1, 48):
        if family not in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK):
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
                with contextlib.suppress(OSError), socket.socket(family, kind):
                    return f"opened one of family {family}"
    return None


@attack("network", harmless=True)
def abstract_socket(facts: Facts) -> str | None:
    """Connect to a server of the host by an abstract name."""
    return connect(socket.SOCK_STREAM, socket.AF_UNIX, "\0" + facts["abstract"])


@attack("network", harmless=True)
def path_socket(facts: Facts) -> str | None:
    """Connect to a server of the host by a path."""
    return connect(socket.SOCK_STREAM, socket.AF_UNIX, facts["unix_path"])


@attack("network")
def service_sockets(facts: Facts) -> str | None:
    """Connect to the sockets of Docker, D-Bus, containerd, systemd or an X server."""
    for path in ("/var/run/docker.sock", "/run/docker.sock", "/run/dbus/system_bus_socket",
                 "/run/containerd/containerd.sock", "/run/systemd/private", "/tmp/.X11-unix/X0", "\0/tmp/.X11-unix/X0"):  # fmt: skip # noqa: E501
        with contextlib.suppress(OSError):
            return connect(socket.SOCK_STREAM, socket.AF_UNIX, path)
    return None
