"""The provisioner ``codeact-local`` through jupyter_client, and the kernelspecs that ask for it."""

from __future__ import annotations

import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from codeact import kernelspecs
from codeact.errors import IsolationUnavailable, UsageError
from codeact.sandbox.provisioner import LocalProvisioner
from tests.sandbox import ordinary
from tests.sandbox.jupyter import install, installed_kernelspec
from tests.sandbox.processes import marked, until
from tests.sandbox.test_attacks import home_for_others
from tests.terminal import command

LIMIT = 30  # seconds
MEMORY = 600


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("jupyter")
    with installed_kernelspec(place, "--memory", str(MEMORY)):
        yield place


Kernel = tuple[KernelManager, BlockingKernelClient]


@contextmanager
def kernel(name: str = "codeact", **options: Any) -> Iterator[Kernel]:
    manager = KernelManager(kernel_name=name)
    manager.start_kernel(**options)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=LIMIT)
        yield manager, client
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


@pytest.fixture(scope="module")
def shared(place: Path) -> Iterator[Kernel]:
    with kernel() as made:
        yield made


def printed(client: BlockingKernelClient, code: str) -> str:
    """What the code printed, errors included."""
    told = []

    def hear(message: dict[str, Any]) -> None:
        told.append(str(message["content"].get("text", message["content"].get("evalue", ""))))

    client.execute_interactive(code, timeout=LIMIT, output_hook=hear)
    return "".join(told)


def wait(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, f"{what}: not within {LIMIT} seconds"
        time.sleep(0.02)


def test_code_runs_within_the_boundary(shared: Kernel, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("sesame")
    code = f"import os, resource\nprint(os.getcwd(), os.path.exists({str(tmp_path)!r}), os.getpid() < 100)\n"
    code += f"print(os.path.exists({os.getcwd()!r} + '/pyproject.toml'), 'JUPYTER_PATH' in os.environ)\n"
    code += "print(resource.getrlimit(resource.RLIMIT_DATA)[0] >> 20)"
    assert printed(shared[1], code) == f"/workspace False True\nFalse False\n{MEMORY}\n"


def test_interrupt_keeps_the_state(shared: Kernel) -> None:
    manager, client = shared
    printed(client, "kept = 1")
    heard = []

    def hear(message: dict[str, Any]) -> None:
        heard.append(message["content"])
        if message["content"].get("text") == "begun\n":
            manager.interrupt_kernel()

    code = "import time\nprint('begun', flush=True)\ntime.sleep(600)"
    reply = client.execute_interactive(code, timeout=LIMIT, output_hook=hear)
    assert reply["content"]["ename"] == "KeyboardInterrupt", heard
    assert printed(client, "print(kept)") == "1\n"


@pytest.mark.parametrize("now", [False, True])
def test_a_restart_makes_a_fresh_kernel_over_the_same_files(shared: Kernel, now: bool) -> None:
    manager, client = shared
    printed(client, "lost = 1\nopen('kept.txt', 'w').write('kept')")
    paths = manager.get_connection_info()
    manager.restart_kernel(now=now)
    client.wait_for_ready(timeout=LIMIT)
    assert printed(client, "print('lost' in globals(), open('kept.txt').read())") == "False kept\n"
    assert manager.get_connection_info() == paths


def test_a_death_is_noticed_and_its_cause_logged(shared: Kernel, caplog: pytest.LogCaptureFixture) -> None:
    manager, client = shared
    printed(client, "open('kept.txt', 'w').write('kept')")
    client.execute("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    with caplog.at_level(logging.WARNING):
        wait(lambda: not manager.is_alive(), "the kernel is dead")
    assert "ended by signal 9" in caplog.text
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=LIMIT)
    assert printed(client, "print(open('kept.txt').read())") == "kept\n"


def test_a_connection_file_lets_another_client_in(shared: Kernel) -> None:
    manager, client = shared
    printed(client, "shared = 'by both'")
    other = BlockingKernelClient(connection_file=manager.connection_file)
    other.load_connection_file()
    assert stat_mode(manager.connection_file) == 0o600
    other.start_channels()
    try:
        other.wait_for_ready(timeout=LIMIT)
        assert printed(other, "print(shared)") == "by both\n"
    finally:
        other.stop_channels()


def stat_mode(path: str) -> int:
    return os.stat(path).st_mode & 0o777


def test_shutdown_leaves_nothing(place: Path) -> None:
    mark = f"cdp-{secrets.token_hex(8)}"
    manager = KernelManager(kernel_name="codeact")
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=LIMIT)
    printed(client, f"import subprocess\nsubprocess.Popen(['sh', '-c', 'read line', {mark!r}], stdin=subprocess.PIPE)")
    folder = Path(manager.ip).parent
    assert marked(mark) and any(folder.glob(f"{Path(manager.ip).name}-*"))
    client.stop_channels()
    manager.shutdown_kernel()
    wait(lambda: not marked(mark), "the session's processes end")
    assert not manager.is_alive() and not any(folder.glob(f"{Path(manager.ip).name}-*"))


def test_other_languages_run_by_name(place: Path) -> None:
    subprocess.run([sys.executable, "-m", "bash_kernel.install", "--prefix", str(place)], check=True, timeout=LIMIT)
    install(place, "--kernel", "bash")
    spec = json.loads((place / "share/jupyter/kernels/codeact-bash/kernel.json").read_text())
    assert (spec["display_name"], spec["language"]) == ("Bash (codeact sandbox)", "bash")
    with kernel("codeact-bash") as (manager, client):
        assert printed(client, "pwd; ls -d /home").startswith("/workspace\nls: ")
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=LIMIT)
        assert printed(client, "echo again") == "again\n"


def spec(**config: Any) -> KernelSpec:
    provisioner = {"provisioner_name": "codeact-local", "config": config}
    argv = [sys.executable, "-m", "codeact", "kernelspec", "refuse", "{connection_file}"]
    return KernelSpec(argv=argv, display_name="x", metadata={"kernel_provisioner": provisioner})


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"memroy": 1}, "unknown setting 'memroy' .* there is memory, disk"),
        ({"timeout": 5}, "unknown setting 'timeout'"),
        ({"memory": 1}, "memory in the kernelspec's .* greater than or equal"),
        ({"disk": "much"}, "disk in the kernelspec's"),
        ({"kernel": "nope"}, "no kernel 'nope' is installed"),
        ({"kernel": "codeact-twice"}, "only names another one"),
    ],
)
def test_a_wrong_configuration_is_told(place: Path, config: dict[str, Any], complaint: str) -> None:
    twice = place / "share/jupyter/kernels/codeact-twice"
    twice.mkdir(exist_ok=True)
    (twice / "kernel.json").write_text(json.dumps(spec(kernel="codeact").to_dict()))
    with pytest.raises(UsageError, match=complaint):
        LocalProvisioner(kernel_id="x", kernel_spec=spec(**config), **config)


def test_arguments_for_the_kernel_are_refused(place: Path) -> None:
    manager = KernelManager(kernel_name="codeact")
    with pytest.raises(UsageError, match="takes no arguments"):
        manager.start_kernel(extra_arguments=["--debug"])
    assert not manager.has_kernel


def test_the_command_itself_refuses(place: Path) -> None:
    """What a client would start that knows nothing of provisioners."""
    argv = json.loads((place / "share/jupyter/kernels/codeact/kernel.json").read_text())["argv"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=LIMIT)
    assert done.returncode == 5 and "nothing was started" in done.stderr and done.stdout == ""


def test_paths_are_short_wherever_temporary_files_are_kept(place: Path, tmp_path: Path) -> None:
    deep = tmp_path / ("deep" * 20) / ("er" * 30)
    deep.mkdir(parents=True)
    with host("codeact", "print(6 * 7)", TMPDIR=str(deep)) as process:
        assert process.stdout is not None and [process.stdout.readline() for _ in range(2)] == ["42\n", "ready\n"]
        process.communicate("", timeout=LIMIT)
    assert process.returncode == 0 and list(deep.iterdir()) == []


@contextmanager
def host(*arguments: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    line = [sys.executable, "-m", "tests.sandbox.jupyter_host", *arguments]
    told = {**os.environ, **environment}
    with subprocess.Popen(line, env=told, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


async def test_a_killed_host_leaves_nothing(place: Path) -> None:
    mark = f"cdk-{secrets.token_hex(8)}"
    code = f"import subprocess\nx = subprocess.Popen(['sh', '-c', 'read line', {mark!r}], stdin=subprocess.PIPE)"
    with host("codeact", code) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        assert [pid for pid in marked(mark) if pid != process.pid]
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT)
    await until(lambda: not marked(mark), "the processes of the session end")


def test_without_the_boundary_nothing_starts(place: Path, tmp_path: Path) -> None:
    home_for_others(place)
    home = home_for_others(tmp_path)
    told = json.loads(ordinary.run(home, "forbidden-jupyter", str(place)))
    assert told["error"] == IsolationUnavailable.__name__ and "user namespaces" in told["said"]
    assert told["processes"] <= 1, "the zygote, which runs no code"


def test_installing_listing_and_removing(tmp_path: Path) -> None:
    base = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
    environment = {**base, "JUPYTER_PATH": str(tmp_path / "share" / "jupyter"), "HOME": str(tmp_path / "home")}

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        line = command("kernelspec", *arguments)
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=LIMIT)

    options = ("--prefix", tmp_path, "--name", "mine", "--display-name", "Mine", "--memory", "300")
    folder = tmp_path / "share/jupyter/kernels/mine"
    for _ in range(2):  # again, over the old one
        done = run("install", *options)
        assert (done.returncode, done.stdout) == (0, f"installed mine in {folder}\n")
    written = json.loads((folder / "kernel.json").read_text())
    assert written["display_name"] == "Mine"
    assert written["metadata"]["kernel_provisioner"]["config"] == {"memory": 300 << 20}
    listed = run("list").stdout
    assert "Mine" in listed and "python3" not in listed
    assert run("remove", "mine").returncode == 0 and not folder.exists()
    assert run("install", "--user").returncode == 0
    assert list((tmp_path / "home").rglob("codeact/kernel.json"))
    refused = run("remove", "python3")
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
    assert "no kernelspec 'python3' of codeact" in refused.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"place": (True, True, None)}, "contradict"),
        ({"memory": 1}, "128 MiB"),
        ({"name": "../x"}, "no name for a kernelspec"),
        ({"name": "python3"}, "another kernel 'python3'"),
        ({"kernel": "nope"}, "no kernel 'nope'"),
        ({"place": (False, False, Path("/proc/1"))}, "/proc/1"),
    ],
)
def test_what_cannot_be_installed_is_told(place: Path, options: dict[str, Any], complaint: str) -> None:
    given = {"place": (False, False, place), "kernel": None, "name": None, "display_name": None, "memory": None}
    with pytest.raises(UsageError, match=complaint):
        kernelspecs.install(**{**given, **options})
