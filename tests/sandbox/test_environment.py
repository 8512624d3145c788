"""A session's own Python environment: pip installs into it, network or not; the host's packages stay as they are."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from codeact.contracts import Sandbox, Session
from codeact.sandbox import Sandbox as make_sandbox
from codeact.sandbox import environment
from tests.sandbox.as_user import LIMITS
from tests.sandbox.web import wheel

in_module = pytest.mark.asyncio(loop_scope="module")

OWN = "/tmp/home/.venv"
PACKAGES = f"{OWN}/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
SUBPROCESS = "import subprocess, sys\nsubprocess.run([sys.executable, '-m', 'pip', 'install', '{}'])"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sandbox() -> AsyncIterator[Sandbox]:
    async with make_sandbox("local", **LIMITS) as sandbox:
        yield sandbox


async def put(session: Session, built: Path) -> str:
    await session.put(built.name, built.read_bytes())
    return f"./{built.name}"


@in_module
async def test_the_kernel_and_its_children_are_in_it(shared: Session) -> None:
    code = "import sys, site\nprint(sys.executable, sys.prefix, sys.base_prefix != sys.prefix, *site.getsitepackages())"
    assert (await shared.run(code)).stdout.split() == [f"{OWN}/bin/python", OWN, "True", PACKAGES]
    code = "import subprocess\nprint(subprocess.run([sys.executable, '-c', 'import sys, numpy; print(sys.prefix)'], "
    assert (await shared.run(code + "capture_output=True, text=True).stdout)")).stdout.strip() == OWN
    assert (await shared.run("!which python pip")).stdout.split() == [f"{OWN}/bin/python", f"{OWN}/bin/pip"]


@in_module
@pytest.mark.parametrize("install", ["%pip install {}", "!pip install {}", SUBPROCESS])
async def test_an_uploaded_wheel_installs_without_a_network(session: Session, tmp_path: Path, install: str) -> None:
    assert (await session.run("import importlib.util\nimportlib.util.find_spec('parcel')")).result is None
    path = await put(session, wheel(tmp_path, "parcel", "1.0", "contents = 42\n"))
    await session.run(install.format(path))
    found = await session.run("import parcel\nparcel.contents, parcel.__file__")
    assert found.result == f"(42, '{PACKAGES}/parcel/__init__.py')"


@in_module
async def test_a_package_of_the_host_is_replaced_and_comes_back(session: Session, tmp_path: Path) -> None:
    ours = importlib.metadata.version("idna")
    version = "!python -c 'import idna, importlib.metadata as m; print(m.version(\"idna\"), idna.__file__)'"
    assert (await session.run(version)).stdout.startswith(ours)
    path = await put(session, wheel(tmp_path, "idna", "999.0", "core = None\n"))
    installed = await session.run(f"%pip install {path}")
    assert "Successfully installed idna-999.0" in installed.stdout, installed
    assert (await session.run(version)).stdout.startswith(f"999.0 {OWN}/")
    await session.run("%pip uninstall -y idna")
    assert (await session.run(version)).stdout.startswith(ours)
    again = await session.run("%pip uninstall -y idna")
    assert "outside environment" in again.stdout and importlib.metadata.version("idna") == ours
    assert (await session.run(version)).stdout.startswith(ours)


@in_module
async def test_it_is_the_sessions_alone_and_outlives_a_kernel(
    sandbox: Sandbox, session: Session, tmp_path: Path
) -> None:
    await session.run(f"%pip install {await put(session, wheel(tmp_path, 'parcel', '1.0', 'contents = 42'))}")
    assert (await session.run("import os\nos._exit(1)")).status == "died"
    assert (await session.run("import parcel\nparcel.contents")).result == "42"
    other = await sandbox.session()
    try:
        error = (await other.run("import parcel")).error
        assert error is not None and error.name == "ModuleNotFoundError"
    finally:
        await other.close()


@in_module
async def test_pip_is_not_configured_by_the_host(shared: Session) -> None:
    listed = await shared.run("%pip config list")
    set_here = {"disable-pip-version-check", "no-cache-dir", "no-input"}
    lines = [line for line in listed.stdout.splitlines() if "=" in line]
    assert {line.partition("=")[0].removeprefix(":env:.") for line in lines} == set_here


def test_where_python_has_no_pip_there_is_one_or_a_remedy(tmp_path: Path) -> None:
    """``-S`` leaves out what is installed, pip with it."""
    code = f"import json, runpy, sys\njson.dump(runpy.run_path({environment.__file__!r})['plan']()[1], sys.stdout)"
    told = subprocess.run([sys.executable, "-S", "-c", code], env={}, capture_output=True, check=True)
    texts = {Path(path).name: text for path, text in json.loads(told.stdout).items()}
    (tmp_path / "pip.py").write_text(texts.get("pip.py", ""))
    found = texts["outer.pth"].strip() or str(tmp_path)
    command = [sys.executable, "-S", "-m", "pip", "--version"]
    done = subprocess.run(command, env={"PYTHONPATH": found}, capture_output=True, text=True)
    assert (f"from {found}/pip" in done.stdout) != ("install it there" in done.stderr), done
