"""Real sessions with no network, with some names, and with the host's: what they reach, and what they do not."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from codeact.contracts import ExecutionResult, Sandbox, Session
from codeact.sandbox import Sandbox as make_sandbox
from codeact.sandbox import linux
from tests.sandbox import ordinary, web
from tests.sandbox.as_user import LIMITS
from tests.sandbox.processes import until
from tests.sandbox.test_attacks import home_for_others

pytestmark = pytest.mark.asyncio(loop_scope="module")


@dataclass
class Servers:
    plain: web.Site
    tls: web.Site
    other: web.Site
    index: web.Site


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    with web.http() as plain, web.http(tls="files.example.org") as tls, web.http() as other, web.http() as index:
        built = web.wheel(tmp_path_factory.mktemp("wheel"), "parcel", "1.0", "contents = 'from the index'\n")
        index.files["/simple/parcel/"] = f'<a href="/files/{built.name}">{built.name}</a>'.encode()
        index.files[f"/files/{built.name}"] = built.read_bytes()
        yield Servers(plain, tls, other, index)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox(servers: Servers) -> AsyncIterator[Sandbox]:
    names = [
        f"web.example.org={servers.plain.address},files.example.org={servers.tls.address}",
        f"index.example.org={servers.index.address}",
    ]
    async with make_sandbox("local", allow_net=names, **LIMITS) as sandbox:
        yield sandbox


PRELUDE = """
import os, socket, ssl, urllib.error, urllib.request
def fetch(url, **options):
    try:
        return urllib.request.urlopen(url, timeout=20, **options).read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
def reach(host, port, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, kind) as s:
        s.settimeout(5)
        try:
            s.connect((host, port))
            s.send(b"x")
        except OSError as error:
            return type(error).__name__, error.errno
        return "connected"
"""


async def value(session: Session, code: str) -> ExecutionResult:
    result = await session.run(PRELUDE + code, timeout=60)
    assert result.status == "ok", result.error
    return result


async def test_the_session_is_told_the_truth(shared: Session) -> None:
    said = shared.description
    assert "Only these hosts can be reached, over HTTP and HTTPS: web.example.org, files.example.org" in said
    assert "127.0.0.1" not in said


async def test_plain_http_and_tls_reach_allowed_hosts(shared: Session, servers: Servers) -> None:
    await shared.put("ca.pem", web.AUTHORITY.cert_pem.bytes())
    result = await value(shared, "fetch('http://web.example.org/'), fetch('http://web.example.org/echo', data=b'sent')")
    assert result.result == "('hello', 'sent')" and result.notice is None
    context = "context = ssl.create_default_context(cafile='ca.pem')\n"
    tls = await value(shared, context + "fetch('https://files.example.org/', context=context)")
    assert tls.result == "'hello'" and servers.tls.seen
    with_requests = "import requests\nrequests.get('https://files.example.org/', verify='ca.pem', timeout=20).text"
    assert (await value(shared, with_requests)).result == "'hello'"


async def test_refusals_are_answered_and_told(shared: Session) -> None:
    result = await value(shared, "fetch('http://evil.example.org/')[0], fetch('http://0x7f.1/')[0]")
    assert result.result == "(403, 403)" and result.notice is not None
    assert "The network refused: evil.example.org:80 (not in --allow-net), 0x7f.1:80 (an IP address" in result.notice
    text = (await value(shared, "print(fetch('http://evil.example.org/')[1])")).stdout
    assert "allowed: web.example.org, files.example.org" in text and "--allow-net" in text
    tunnel = await shared.run("urllib.request.urlopen('https://evil.example.org/', timeout=20)")
    assert tunnel.error is not None and "403 refused evil.example.org:443" in tunnel.error.message
    assert (await shared.run("1")).notice is None


async def test_a_redirect_elsewhere_is_refused(shared: Session, servers: Servers) -> None:
    for url in (f"http://127.0.0.1:{servers.other.port}/", "http://evil.example.org/", "https://169.254.169.254/"):
        result = await shared.run(
            "import requests\nfrom urllib.parse import quote\n"
            f"requests.get('http://web.example.org/redirect?to=' + quote({url!r}), timeout=20).status_code"
        )
        blocked = result.result == "403" or (result.error is not None and "Error" in result.error.name)
        assert blocked, result
    assert not servers.other.seen


async def test_there_is_no_way_around_the_proxy(shared: Session, servers: Servers) -> None:
    port = servers.other.port
    code = f"""
tries = [reach('127.0.0.1', {port}), reach('203.0.113.1', 80), reach('2606::1', 80)]
tries.append(reach('8.8.8.8', 53, socket.SOCK_DGRAM))
try: tries.append(socket.getaddrinfo('web.example.org', 80))
except OSError as error: tries.append('no name')
interfaces = [name for _, name in socket.if_nameindex()]
routes = open('/proc/net/route').read().splitlines()[1:]
"connected" in tries, tries[-1], interfaces, routes"""
    assert (await value(shared, code)).result == "(False, 'no name', ['lo'], [])"
    assert not servers.other.seen


async def test_raw_use_of_the_proxy_gains_nothing(shared: Session, servers: Servers) -> None:
    code = """
def say(data, more=b""):
    with socket.create_connection(("127.0.0.1", 3128), timeout=20) as s:
        s.sendall(data)
        answer = s.recv(65536)
        if more:
            s.sendall(more)
            answer += b"|" + s.recv(65536)
        return answer
def connect(target, more=b""):
    return say(f"CONNECT {target} HTTP/1.1\\r\\nHost: {target}\\r\\n\\r\\n".encode(), more)
refused = [connect(t).split()[1] for t in ("files.example.org:25", "127.0.0.1:443", "evil.org:443", "[::1]:443")]
tunnel = connect("files.example.org:443", b"GET / HTTP/1.1\\r\\n\\r\\n")
refused, tunnel[-1:], say(b"GET / HTTP/1.1\\r\\nHost: web.example.org\\r\\n\\r\\n")[9:12]
"""
    before = len(servers.tls.seen)
    assert (await value(shared, code)).result == "([b'403', b'403', b'403', b'403'], b'|', b'400')"
    assert len(servers.tls.seen) == before


async def test_pip_installs_from_an_allowed_index(session: Session) -> None:
    options = "--index-url http://index.example.org/simple/ --trusted-host index.example.org"
    result = await session.run(f"%pip install {options} parcel", timeout=60)
    assert "Successfully installed parcel-1.0" in result.stdout, result
    found = await session.run("import parcel\nparcel.contents, parcel.__file__.startswith('/tmp/home/.venv/')")
    assert found.result == "('from the index', True)"
    refused = await session.run(f"!pip install --retries 0 {options.replace('index.', 'evil.')} parcel==2", timeout=60)
    assert "evil.example.org:80 (not in --allow-net)" in (refused.notice or "")


async def test_the_way_out_outlives_a_kernel_and_ends_with_the_session(sandbox: Sandbox) -> None:
    def held() -> tuple[int, int]:
        return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))

    await (await sandbox.session()).close()
    before = held()
    session = await sandbox.session()
    assert (await session.run("import os\nos._exit(1)")).status == "died"
    assert (await value(session, "fetch('http://web.example.org/')")).result == "'hello'"
    code = """
s = socket.create_connection(("127.0.0.1", 3128))
s.sendall(b"CONNECT files.example.org:443 HTTP/1.1\\r\\nHost: files.example.org:443\\r\\n\\r\\n")
s.recv(12)[-3:]"""
    assert (await value(session, code)).result == "b'200'", "a tunnel is open"
    await session.close()
    await until(lambda: held()[0] <= before[0] and held()[1] <= before[1], "nothing is left")


async def test_sessions_have_proxies_of_their_own(sandbox: Sandbox, shared: Session) -> None:
    other = await sandbox.session()
    try:
        await value(other, "fetch('http://evil.example.org/')[0]")
        assert (await shared.run("1")).notice is None
    finally:
        await other.close()


async def test_without_a_network_there_is_no_proxy() -> None:
    async with make_sandbox("local", **LIMITS) as sandbox:
        session = await sandbox.session()
        assert "There is no network." in session.description
        result = await value(session, "[n for n in os.environ if 'proxy' in n.lower()], reach('127.0.0.1', 3128)[0]")
        assert result.result == "([], 'ConnectionRefusedError')"


def _host_code(port: int, abstract: str) -> str:
    return f"""
tries = []
with socket.socket(socket.AF_UNIX) as s:
    try:
        s.connect("\\0{abstract}")
        tries.append("connected")
    except PermissionError:
        tries.append("refused")
for family, kind in ((socket.AF_INET, socket.SOCK_RAW), (socket.AF_PACKET, socket.SOCK_RAW), (socket.AF_NETLINK, 3)):
    try:
        socket.socket(family, kind, 1 if family == socket.AF_INET else 12).close()
        tries.append("opened")
    except OSError:
        tries.append("refused")
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    import fcntl, struct
    try:
        fcntl.ioctl(s, 0x8914, struct.pack("16sH14x", b"lo", 0x49))  # SIOCSIFFLAGS
        tries.append("set")
    except PermissionError:
        tries.append("refused")
fetch('http://127.0.0.1:{port}/'), tries, len(open('/etc/resolv.conf').read())
"""


async def test_the_hosts_network_is_only_that(servers: Servers) -> None:
    name = f"codeact-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"\0{name}")
        listener.listen()
        async with make_sandbox("local", network="host", **LIMITS) as sandbox:
            session = await sandbox.session()
            assert "The network is that of the machine." in session.description
            result = await value(session, _host_code(servers.plain.port, name))
            assert (await session.run("!cat /proc/1/environ 2>&1; ls /root /home 2>&1; id -u")).stdout.count(
                "denied"
            ) >= 1
    abstract = "refused" if linux.landlock_version() >= 6 else "connected"
    resolver = len(Path("/etc/resolv.conf").read_text())
    assert result.result == f"('hello', {[abstract, *['refused'] * 4]}, {resolver})"


async def test_an_ordinary_user_has_both_kinds_of_network(servers: Servers, tmp_path: Path) -> None:
    arguments = ("network", str(servers.plain.port))
    told = json.loads(await asyncio.to_thread(ordinary.run, home_for_others(tmp_path), *arguments))
    assert told == {"names": "['hello', 403, 'ConnectionRefusedError']", "host": "'hello'"}
