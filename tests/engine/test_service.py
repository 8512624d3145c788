"""The routes of an engine, as clients use them."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio

from tests.engine.clients import client, executing, following, made, refused, run, text
from tests.engine.serving import Engine, engine
from tests.sandbox.jupyter import variables
from tests.sandbox.processes import until

pytestmark = pytest.mark.asyncio(loop_scope="module")

LOOP = "print('begun', flush=True)\nwhile True: pass"


@pytest.fixture(scope="module")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the kernelspec of bash is installed."""
    place = tmp_path_factory.mktemp("jupyter")
    command = [sys.executable, "-m", "bash_kernel.install", "--prefix", str(place)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return place


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(kernels: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Engine]:
    options = ("--drain", "1", "--memory", "1024", "--max-timeout", "100", "--allow-net", "*.example.org,one.org:8443")
    async with engine(tmp_path_factory.mktemp("engine"), *options, extra=variables(kernels)) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="module")
async def http(served: Engine) -> AsyncIterator[httpx2.AsyncClient]:
    async with client(served.url) as http:
        yield http


# --- the original system's clients ---


async def test_the_protocol_of_the_original_demo(http: httpx2.AsyncClient) -> None:
    """One convid for the conversation; code, and text back for the model to read."""

    async def execute(code: str) -> tuple[str, bool]:
        answer = await http.post("/execute", json={"convid": "Conversation 1/ü", "code": code})
        assert answer.status_code == 200 and set(answer.json()) == {"result", "new_kernel_created"}, answer.text
        return answer.json()["result"], answer.json()["new_kernel_created"]

    assert await execute("x = 40\nprint(x)\nx + 2") == ("40\n42", True)
    assert await execute("x") == ("40", False)
    assert await execute("y = 1") == ("[Code executed successfully with no output]", False)
    error, _ = await execute("1 / 0")
    assert "ZeroDivisionError: division by zero" in error and "\x1b" not in error
    picture, _ = await execute("import matplotlib.pyplot as plt\nplt.plot([1])\nplt.show()")
    assert picture.startswith("<Figure") and "![image](data:image/png;base64,iVBOR" in picture
    died, _ = await execute("import os\nos._exit(1)")
    assert "The kernel died" in died and "x, y" in died
    fresh, new = await execute("'x' in globals()")
    assert fresh.startswith("False") and new


async def test_a_timeout_is_told_as_the_original_does(tmp_path: Any) -> None:
    async with engine(tmp_path, "--timeout", "1") as running, client(running.url) as http:
        answer = await http.post("/execute", json={"convid": "c", "code": "print('so far')\nwhile True: pass"})
        assert answer.json()["result"].startswith("so far\n") and "[Execution timed out (1 seconds).]" in answer.text


async def test_a_session_with_plain_curl(served: Engine) -> None:
    def curl(*arguments: str) -> str:
        done = subprocess.run(["curl", "-sS", "--max-time", "60", *arguments], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def post(path: str, body: object) -> Any:
        return json.loads(curl("-H", "Content-Type: application/json", "-d", json.dumps(body), served.url + path))

    loop = asyncio.get_running_loop()

    def session() -> None:
        assert post("/execute", {"convid": "curl", "code": "6 * 7"}) == {"result": "42", "new_kernel_created": True}
        id = post("/v1/sessions", {})["id"]
        assert post(f"/v1/sessions/{id}/execute", {"code": "print('hello')"})["result"]["status"] == "ok"
        url = f"{served.url}/v1/sessions/{id}"
        body = json.dumps({"code": "print(1)"})
        events = curl("-N", "-H", "Content-Type: application/json", "-H", "Accept: text/event-stream", "-d", body, f"{url}/execute")  # noqa: E501 # fmt: skip
        assert "event: output\n" in events and events.rstrip().splitlines()[-2] == "event: result"
        assert json.loads(curl(f"{url}/state")) == {"variables": []}
        assert curl("-X", "DELETE", url) == "" and "not_found" in curl(url)

    await loop.run_in_executor(None, session)


# --- sessions ---


async def test_creating_is_idempotent_by_id(http: httpx2.AsyncClient) -> None:
    first = await http.post("/v1/sessions", json={"id": "twice", "memory": 512 << 20})
    again = await http.post("/v1/sessions", json={"id": "twice", "memory": 512 << 20})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json()["created"] == first.json()["created"] and again.json()["existed"]
    assert refused(await http.post("/v1/sessions", json={"id": "twice"})) == (409, "differs")
    body = {"id": "twice", "memory": 512 << 20, "exclusive": True}
    assert refused(await http.post("/v1/sessions", json=body)) == (409, "exists")
    assert (await http.delete("/v1/sessions/twice")).status_code == 204
    assert refused(await http.delete("/v1/sessions/twice")) == (404, "not_found")
    assert (await http.post("/v1/sessions", json={"id": "twice"})).status_code == 201


async def test_first_requests_at_once_make_one_kernel(http: httpx2.AsyncClient) -> None:
    async def first(number: int) -> tuple[str, bool]:
        code = f"import os\nnames = globals().setdefault('names', []) + [{number}]\nos.getpid(), len(names)"
        answer = await http.post("/execute", json={"convid": "race", "code": code})
        return answer.json()["result"], answer.json()["new_kernel_created"]

    told = await asyncio.gather(*(first(number) for number in range(10)))
    assert sorted(new for _, new in told) == [False] * 9 + [True]
    assert sorted(int(result.split(",")[1].strip(" )")) for result, _ in told) == list(range(1, 11))
    created = await asyncio.gather(*(http.post("/v1/sessions", json={"id": "race2"}) for _ in range(10)))
    assert sorted(answer.status_code for answer in created) == [200] * 9 + [201]


async def test_a_session_says_what_it_is_and_how_much_it_did(http: httpx2.AsyncClient) -> None:
    id = await made(http, timeout=5, memory=512 << 20)
    await run(http, id, "import time\ntime.sleep(0.2)\nx = [1, 2]")
    info = (await http.get(f"/v1/sessions/{id}")).json()
    assert (info["state"], info["executions"], info["waiting"]) == ("idle", 1, 0)
    assert info["busy"] >= 0.2 and info["age"] >= 0.2 and info["limits"]["memory"] == 512 << 20
    assert "5 seconds" in info["description"] and "512 MiB" in info["description"]
    assert id in [s["id"] for s in (await http.get("/v1/sessions")).json()["sessions"]]
    state = (await http.get(f"/v1/sessions/{id}/state")).json()["variables"]
    assert [(v["name"], v["type"], v["length"]) for v in state] == [("x", "list", 2)]


async def test_a_session_begins_with_files(http: httpx2.AsyncClient) -> None:
    data = base64.b64encode(b"n\n1\n2\n").decode()
    id = await made(http, files=[{"path": "in/data.csv", "data": data}])
    result = await run(http, id, "import pandas\nint(pandas.read_csv('in/data.csv').n.sum())")
    assert text(result) == "3"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"memory": 2 << 30}, "1.07374e+09 at most"),
        ({"timeout": 101}, "100 at most"),
        ({"network": "host"}, "no network of the host"),
        ({"allow_net": ["a.other.org"]}, "lets no session reach it"),
        ({"allow_net": ["example.org"]}, "lets no session reach it"),
        ({"allow_net": ["one.org:443"]}, "lets no session reach it"),
        ({"allow_net": ["a.example.org=10.0.0.1"]}, "gives names an address"),
        ({"allow_net": ["*"]}, "every host"),
        ({"kernel": "no-such-kernel"}, "no-such-kernel"),
        ({"tools": [{"name": "import", "stub": "", "description": ""}]}, "identifier"),
        ({"files": [{"path": "../x", "data": ""}]}, "../x"),
        ({"id": "a/b"}, "pattern"),
        ({"surprise": 1}, "not permitted"),
    ],
)
async def test_what_cannot_be_had_is_refused(http: httpx2.AsyncClient, options: dict[str, Any], why: str) -> None:
    before = len((await http.get("/v1/sessions")).json()["sessions"])
    answer = await http.post("/v1/sessions", json=options)
    assert answer.status_code == 422 and why in answer.json()["error"]["message"], answer.text
    assert len((await http.get("/v1/sessions")).json()["sessions"]) == before


async def test_network_names_within_what_the_engine_allows(http: httpx2.AsyncClient) -> None:
    id = await made(http, allow_net=["a.example.org", "*.b.example.org:8080", "one.org"])
    info = (await http.get(f"/v1/sessions/{id}")).json()
    assert "a.example.org, *.b.example.org:8080, one.org:8443" in info["description"]


async def test_another_kernel(http: httpx2.AsyncClient) -> None:
    id = await made(http, kernel="bash")
    assert text(await run(http, id, "echo from bash")) == "from bash\n"


async def test_restart_and_fork(http: httpx2.AsyncClient) -> None:
    id = await made(http)
    await run(http, id, "x = [1]\nopen('kept', 'w').write('k')")
    copies = (await http.post(f"/v1/sessions/{id}/fork", json={"count": 2, "ids": ["copy-1", "copy-2"]})).json()
    assert [s["id"] for s in copies["sessions"]] == ["copy-1", "copy-2"]
    await run(http, "copy-1", "x.append(2)")
    assert text(await run(http, "copy-2", "x")) == "[1]" and text(await run(http, "copy-1", "x")) == "[1, 2]"
    async with executing(http, id, LOOP) as stream:
        await stream.until("output")
        assert (await http.post(f"/v1/sessions/{id}/restart")).status_code == 200
        assert (await stream.until("result"))[2]["status"] == "interrupted"
    fresh = await run(http, id, "'x' in globals(), open('kept').read()")
    assert text(fresh) == "(False, 'k')" and fresh["fresh_kernel"]
    assert refused(await http.post(f"/v1/sessions/{id}/fork", json={"ids": ["copy-1"]})) == (409, "exists")
    assert refused(await http.post(f"/v1/sessions/{id}/fork", json={"count": 2, "ids": ["a"]})) == (422, "usage")


# --- executions ---


async def test_events_while_code_runs_resumed_by_number(http: httpx2.AsyncClient) -> None:
    id = await made(http)
    code = "import os, time\nfor i in range(3):\n  while not os.path.exists(f'go-{i}'): time.sleep(0.01)\n  print(i)"
    async with executing(http, id, code, execution="mine") as stream:
        assert [await stream.event(), await stream.event()] == [
            (1, "queued", {"execution": "mine"}),
            (2, "started", {"execution": "mine"}),
        ]
        await http.put(f"/v1/sessions/{id}/files/go-0", content=b"")
        number, _, output = await stream.until("output")
        assert output["text"] == "0\n"
    for i in (1, 2):  # nobody listens
        await http.put(f"/v1/sessions/{id}/files/go-{i}", content=b"")
    async with following(http, id, "mine", number) as stream:
        rest = await stream.all()
    assert "".join(data["text"] for _, kind, data in rest if kind == "output") == "1\n2\n"
    assert rest[-1][1] == "result" and text(rest[-1][2]) == "0\n1\n2\n"
    assert [event[0] for event in rest] == list(range(number + 1, number + 1 + len(rest)))
    async with following(http, id, "mine", 10**9) as stream:
        assert await stream.all() == []
    async with executing(http, id, code, execution="mine") as stream:  # asked again: not run again
        assert (await stream.all())[-1] == rest[-1]
    assert (await http.get(f"/v1/sessions/{id}")).json()["executions"] == 1
    missing = await http.get(f"/v1/sessions/{id}/executions/other/events")
    assert refused(missing) == (404, "not_found")


async def test_a_client_that_leaves_a_plain_execute_interrupts_it(http: httpx2.AsyncClient) -> None:
    id = await made(http)
    await run(http, id, "kept = 1")
    with pytest.raises(httpx2.ReadTimeout):
        await http.post(f"/v1/sessions/{id}/execute", json={"code": "while True: pass"}, timeout=0.5)
    assert text(await run(http, id, "kept")) == "1"


async def test_a_client_that_leaves_before_its_turn_has_nothing_run(http: httpx2.AsyncClient) -> None:
    id = await made(http)
    async with executing(http, id, LOOP) as stream:
        await stream.until("output")
        with pytest.raises(httpx2.ReadTimeout):
            await http.post(f"/v1/sessions/{id}/execute", json={"code": "never = 1"}, timeout=0.3)

        async def none_waits() -> bool:
            return bool((await http.get(f"/v1/sessions/{id}")).json()["waiting"] == 0)

        await until(none_waits, "the execution is given up")
        await http.post(f"/v1/sessions/{id}/interrupt")
        await stream.until("result")
    assert text(await run(http, id, "'never' in globals()")) == "False"


async def test_interrupts_of_what_runs_what_waits_and_nothing(http: httpx2.AsyncClient) -> None:
    id = await made(http)
    path = f"/v1/sessions/{id}/interrupt"
    assert (await http.post(path)).json() == {"interrupted": None}
    async with executing(http, id, LOOP, execution="running") as stream:
        await stream.until("output")
        async with executing(http, id, "x = 1", execution="waiting") as other:
            assert (await other.event())[1] == "queued"
            assert (await http.post(path, json={"execution": "waiting"})).json() == {"interrupted": "waiting"}
            _, _, result = await other.until("result")
            assert result["status"] == "interrupted" and "before it began" in result["notice"]
        assert (await http.post(path)).json() == {"interrupted": "running"}
        assert (await stream.until("result"))[2]["status"] == "interrupted"
    assert (await http.post(path, json={"execution": "running"})).json() == {"interrupted": None}


async def test_code_has_bounds(http: httpx2.AsyncClient) -> None:
    id = await made(http)
    path = f"/v1/sessions/{id}/execute"
    assert refused(await http.post(path, json={"code": "#" * ((1 << 20) + 1)})) == (413, "code_size")
    assert refused(await http.post(path, json={"code": "1", "timeout": 101})) == (422, "usage")
    assert refused(await http.post(path, content=b" " * ((64 << 20) + 1))) == (413, "body_size")

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(65):
            yield b" " * (1 << 20)

    headers = {"Content-Type": "application/json"}
    assert refused(await http.post(path, content=pieces(), headers=headers)) == (413, "body_size")


async def test_too_much_to_show_is_left_out_and_told(http: httpx2.AsyncClient) -> None:
    id = await made(http)
    code = "from IPython.display import HTML\nfor n in range(4): display(HTML('漢\"' * 1_900_000))\nprint('end')"
    answer = await http.post(f"/v1/sessions/{id}/execute", json={"code": code})
    assert len(answer.content) < 33 << 20
    result = answer.json()["result"]
    assert result["status"] == "ok" and "end" in text(result) and "were left out" in result["notice"]


# --- files ---


async def test_files_travel_in_and_out(http: httpx2.AsyncClient) -> None:
    id = await made(http, file=1 << 20)
    data = bytes(range(256)) * 4096
    url = f"/v1/sessions/{id}/files"
    assert (await http.put(f"{url}/deep/é.bin", content=data)).status_code == 204
    assert (await http.get(url)).json() == {"files": [{"path": "deep/é.bin", "size": len(data)}]}
    answer = await http.get(f"{url}/deep/é.bin")
    assert answer.content == data and answer.headers["content-length"] == str(len(data))
    assert answer.headers["content-disposition"].startswith("attachment")
    assert refused(await http.get(f"{url}/none")) == (404, "file_transfer")
    assert refused(await http.put(f"{url}/large", content=data + b"x")) == (413, "file_size")
    assert refused(await http.get(f"{url}/%2E%2E%2Fx")) == (422, "file_transfer")
    assert refused(await http.get(f"{url}/%2Fetc%2Fpasswd")) == (422, "file_transfer")
    assert text(await run(http, id, "import os\nos.path.exists('large')")) == "False"


# --- host tools ---


async def test_calls_are_handed_out_and_answered(http: httpx2.AsyncClient) -> None:
    stub = "def ask(q):\n  from codeact.sandbox.kernelapp import call_host\n  return call_host('ask', {'q': q})"
    id = await made(http, tools=[{"name": "ask", "stub": stub, "description": "ask(q)"}])
    url = f"/v1/sessions/{id}/calls"
    assert (await http.get(url)).json() == {"calls": []}
    waiting = asyncio.create_task(http.get(url, params={"wait": 30}))
    async with executing(
        http, id, "a = ask('one')\ntry: ask('two')\nexcept Exception as e: print(e)\na['n']"
    ) as stream:
        _, _, call = await stream.until("call")
        assert (call["tool"], call["arguments"]) == ("ask", {"q": "one"})
        assert (await waiting).json() == {"calls": [call]}
        assert (await http.get(f"/v1/sessions/{id}")).json()["calls"] == 1
        assert (await http.post(f"{url}/{call['id']}", json={"result": {"n": 1}})).status_code == 204
        assert refused(await http.post(f"{url}/{call['id']}", json={"result": 2})) == (404, "not_found")
        _, _, call = await stream.until("call")
        assert (await http.post(f"{url}/{call['id']}", json={"error": "no such thing"})).status_code == 204
        assert text((await stream.until("result"))[2]) == "no such thing\n1"


async def test_a_copy_asks_its_own_client(http: httpx2.AsyncClient) -> None:
    stub = "def ask():\n  from codeact.sandbox.kernelapp import call_host\n  return call_host('ask', {})"
    id = await made(http, tools=[{"name": "ask", "stub": stub, "description": "ask()"}])
    copy = (await http.post(f"/v1/sessions/{id}/fork", json={})).json()["sessions"][0]["id"]
    async with executing(http, copy, "ask()") as stream:
        _, _, call = await stream.until("call")
        assert (await http.get(f"/v1/sessions/{id}/calls")).json() == {"calls": []}
        await http.post(f"/v1/sessions/{copy}/calls/{call['id']}", json={"result": "copy"})
        assert text((await stream.until("result"))[2]) == "'copy'"


# --- the service ---


async def test_health_readiness_and_metrics(http: httpx2.AsyncClient) -> None:
    assert (await http.get("/healthz")).text == "ok\n" and (await http.get("/readyz")).text == "ready\n"
    id = await made(http)
    await run(http, id, "1")
    await http.get("/v1/sessions/none-of-this-name")
    lines = (await http.get("/metrics")).text.splitlines()
    found = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if not line.startswith("#")}
    assert found["codeact_sessions"] == len((await http.get("/v1/sessions")).json()["sessions"])
    assert found['codeact_executions_total{status="ok"}'] >= 1 and found['codeact_starts_total{outcome="ok"}'] >= 1
    assert found['codeact_refusals_total{cause="not_found"}'] >= 1 and found["codeact_start_seconds_count"] >= 1
    assert found["codeact_executions_running"] == found["codeact_executions_waiting"] == 0
    assert any(line.startswith('codeact_request_seconds_count{method="POST",route="/v1/sessions"') for line in lines)
    assert not any(id in line or "none-of-this-name" in line for line in lines)


async def test_the_page_of_the_interface_needs_nothing_from_elsewhere(http: httpx2.AsyncClient) -> None:
    answer = await http.get("/docs")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    assert "/v1/sessions/{id}/execute" in answer.text and "<script" not in answer.text
    document = (await http.get("/openapi.json")).json()
    for path in document["paths"]:
        assert path in answer.text


async def test_only_this_machine_is_served_without_a_key(http: httpx2.AsyncClient) -> None:
    body = {"convid": "c", "code": "1"}
    for headers in ({"Host": "attacker.example"}, {"Origin": "https://attacker.example"}, {"Origin": "null"}):
        assert refused(await http.post("/execute", json=body, headers=headers)) == (403, "not_local"), headers
    assert (await http.get("/healthz", headers={"Host": "localhost:1"})).status_code == 200
    plain = await http.post("/execute", content=json.dumps(body), headers={"Content-Type": "text/plain"})
    assert plain.status_code == 422
