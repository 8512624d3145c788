"""The command line as a process: what it prints where, how it exits, and that nothing is left behind."""

from __future__ import annotations

import json
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from codeact import trajectory
from codeact.contracts import ExecutionResult, Reply, StreamOutput
from codeact.events import (
    Event,
    ExecutionFinished,
    ExecutionStarted,
    ModelReplied,
    Observed,
    RunFinished,
    RunStarted,
    TurnStarted,
)
from tests.sandbox.ordinary import run_module
from tests.sandbox.test_attacks import home_for_others
from tests.sandbox.web import http
from tests.servers import ScriptedServer
from tests.terminal import command, descendants, environment, terminal, wait_gone

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "home").mkdir()
    return tmp_path / "home"


@pytest.fixture
def cli(home: Path, tmp_path: Path) -> Cli:
    """Runs the command line to its end, in a directory of its own."""

    def run(*arguments: str | Path, input: str = "", **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments),
            input=input,
            capture_output=True,
            text=True,
            timeout=90,
            cwd=tmp_path,
            env=environment(home, **env),
        )

    return run


def test_the_window_and_what_is_done_where_it_is_full_can_be_set(cli: Cli) -> None:
    with ScriptedServer(["Never said."]) as server:
        where = {"OPENAI_BASE_URL": server.base_url, "CODEACT_MODEL": "scripted"}
        done = cli("run", "Go.", "--context-window", "300", **where)
        assert done.returncode == 4 and server.requests == []
        assert "leaves no room in the model's window of 300" in done.stderr and "--context-window" in done.stderr
        assert cli("run", "Go.", **where, CODEACT_CONTEXT_WINDOW="300").returncode == 4
        done = cli("run", "Go.", "--context", "forget", **where)
        assert done.returncode == 2 and "--context: " in done.stderr and "'summarize'" in done.stderr
        assert cli("run", "Go.", "--context", "elide", **where).stdout == "Never said.\n"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """A run of one execution and an answer."""
    path = tmp_path / "recorded.jsonl"
    code = "print('six')\nx = 6 * 7"
    result = ExecutionResult(status="ok", outputs=(StreamOutput(name="stdout", text="six\n"),), execution_count=1)
    text = f"I compute.\n<execute>\n{code}\n</execute>"
    told: list[Event] = [
        RunStarted(task="What is x?", model="old", format="tags", sandbox="local", prompt="p"),
        TurnStarted(turn=1),
        ModelReplied(turn=1, reply=Reply(text=text, thought="I compute.", code=code)),
        ExecutionStarted(turn=1, code=code),
        ExecutionFinished(turn=1, result=result),
        Observed(turn=1, text="six"),
        TurnStarted(turn=2),
        ModelReplied(turn=2, reply=Reply(text="It is 42.", answer="It is 42.")),
        RunFinished(reason="answered", answer="It is 42.", turns=2, executions=1),
    ]
    trajectory.save(path, told)
    return path


def at(server: ScriptedServer) -> list[str]:
    return ["--base-url", server.base_url, "--model", "scripted"]


def execute(code: str, thought: str = "Now.") -> str:
    return f"{thought}\n<execute>\n{code}\n</execute>"


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that says what went wrong."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, done.stderr
    assert "Traceback" not in done.stderr
    return lines[0]


# --- light and quick ----------------------------------------------------------------------------------------------


def test_help_is_there_at_once_and_imports_nothing_heavy(home: Path) -> None:
    code = "import sys, codeact.cli; print([m for m in sys.argv[1:] if m in sys.modules])"
    heavy = ["openai", "numpy", "pandas", "zmq", "IPython", "pydantic", "rich", "prompt_toolkit", "asyncio"]
    done = subprocess.run([sys.executable, "-c", code, *heavy], capture_output=True, text=True, env=environment(home))
    assert done.stdout == "[]\n", done.stderr
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command("--help"), stdout=subprocess.DEVNULL, check=True, env=environment(home))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 0.5  # seconds, whatever else runs


def test_version_and_no_command(cli: Cli) -> None:
    assert cli("--version").stdout.startswith("codeact 0.")
    bare = cli()
    assert (bare.returncode, bare.stdout) == (2, "")
    assert "Exit codes:" in bare.stderr


def test_the_documentation_is_what_help_says() -> None:
    script = Path(__file__).parents[1] / "docs" / "refresh.py"
    done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- wrong usage --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run", "  "], "the task is empty"),
        (["run"], "the task is empty"),
        (["run", "t", "--file", "missing.csv"], "there is no file missing.csv"),
        (["run", "t", "--file", "."], "is not a file"),
        (["run", "t", "--max-turns", "x"], "--max-turns"),
        (["run", "t", "--timeout", "0"], "--timeout: "),
        (["run", "t", "--bogus"], "--bogus"),
        (["run", "t", "--format", "xml"], "unknown action format"),
        (["run", "t", "--sandbox", "moon"], "there is no sandbox 'moon'"),
        (["run", "t", "--json", "--quiet"], "contradict"),
        (["run", "t", "--network", "bridge"], "--network: "),
        (["run", "t", "--allow-net", "a.org", "--allow-net", "b.org,10.0.0.1"], "--allow-net 10.0.0.1: an IP address"),
        (["exec", "1", "--allow-net", "a.org", "--network", "host"], "contradict"),
        (["exec", "1", "--allow-net", "a.org", "--sandbox", "unsafe-process"], "needs a boundary"),
        (["replay", "recorded.jsonl", "--allow-net", "a.org"], "need --live"),
        (["run", "t", "--save", "missing/run.jsonl"], "cannot be saved"),
        (["run", "t", "--save", "precious.txt"], "is not a trajectory"),
        (["run", "t", "--out", "precious.txt"], "nothing can be saved"),
        (["run", "t", "--model", "replay:precious.txt"], "not a codeact trajectory"),
        (["run", "t", "--model", "missing.gguf"], "missing.gguf"),
        (["run", "t", "--base-url", "http://127.0.0.1:1/v1"], "--model"),
        (["exec", "."], "is a directory"),
        (["exec", "missing.py"], "there is no file missing.py"),
        (["exec", ""], "the code is empty"),
        (["exec", "-"], "the code is empty"),
        (["exec", "latin.py"], "not UTF-8"),
        (["replay", "missing.jsonl"], "missing.jsonl cannot be read"),
        (["replay", "."], "is not a file"),
        (["replay", "precious.txt"], "line 1: not a codeact trajectory"),
        (["replay", "broken.jsonl"], "broken.jsonl, line 2"),
        (["replay", "recorded.jsonl", "--out", "x"], "need --live"),
        (["replay", "recorded.jsonl", "--live", "--save", "recorded.jsonl"], "the recording itself"),
        (["export", "recorded.jsonl"], "--to notebook, html or conversations"),
        (["export", "recorded.jsonl", "--to", "pdf"], "--to"),
        (["export", "recorded.jsonl", "-o", "recorded.jsonl"], "the recording itself"),
        (["export", "recorded.jsonl", "-o", "missing/run.html"], "cannot be written"),
        (["bogus"], "bogus"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(
    cli: Cli, recording: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "precious.txt").write_text("mine\n")
    (tmp_path / "latin.py").write_bytes(b"'\xe4'")
    (tmp_path / "broken.jsonl").write_text('{"codeact_trajectory":1}\n{"type":"nonsense"}\n')
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in error_of(done)
    assert (tmp_path / "precious.txt").read_text() == "mine\n"


def test_a_host_is_allowed_by_name(cli: Cli) -> None:
    code = "from urllib.request import urlopen as o\nprint(o('http://web.example.org/').read())\no('http://evil.org/')"
    with http() as site:
        done = cli("exec", code, "--allow-net", f"web.example.org={site.address}")
    assert (done.returncode, done.stdout) == (1, "b'hello'\n")
    assert "HTTPError: HTTP Error 403: refused evil.org:80" in done.stderr
    assert done.stderr.endswith("[The network refused: evil.org:80 (not in --allow-net).]\n")


def test_a_mistake_in_the_configuration_file(cli: Cli, home: Path) -> None:
    file = home / ".config" / "codeact" / "config.toml"
    file.parent.mkdir(parents=True)
    file.write_text("colour = 'red'\n")
    done = cli("config", "show")
    assert done.returncode == 2
    assert "'colour'" in error_of(done) and str(file) in error_of(done)


def test_config_show_masks_secrets_and_says_where_from(cli: Cli) -> None:
    env = {"OPENAI_API_KEY": "sk-secret", "CODEACT_TIMEOUT": "5"}
    table = cli("config", "show", **env)
    assert "sk-secret" not in table.stdout and "OPENAI_API_KEY" in table.stdout
    shown = json.loads(cli("config", "show", "--json", **env).stdout)
    assert shown["timeout"] == {"value": 5.0, "from": "CODEACT_TIMEOUT"}
    assert shown["api_key"] == {"value": "********", "from": "OPENAI_API_KEY"}


def test_something_unexpected_is_one_line_unless_asked_for(home: Path) -> None:
    few = ["sh", "-c", 'ulimit -n 8; exec "$@"', "sh", *command("exec", "1")]  # no descriptors left for a sandbox
    for env, said in ({}, "CODEACT_DEBUG=1"), ({"CODEACT_DEBUG": "1"}, "Traceback"):
        done = subprocess.run(few, capture_output=True, text=True, env=environment(home, **env), timeout=60)
        assert done.returncode == 1
        assert said in done.stderr and ("Traceback" in done.stderr) == bool(env)


# --- run ----------------------------------------------------------------------------------------------------------


def test_run_on_pipes_answers_on_stdout_and_tells_the_rest_on_stderr(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("6")
    replies = [
        execute("n = int(open('in.txt').read())\nprint('read', n)\nopen('out.txt', 'w').write('7')"),
        "It is **42**.",
    ]
    with ScriptedServer(replies) as server:
        done = cli("run", "What is it?", "--file", "in.txt", "--save", "run.jsonl", *at(server))
    assert (done.returncode, done.stdout) == (0, "It is **42**.\n")
    first, *rest = done.stderr.splitlines()
    assert "scripted" in first and server.base_url in first and first.endswith("code runs in: local")
    assert "│ print('read', n)" in rest and "  read 6" in rest
    assert "out.txt (1 bytes)" in done.stderr and "in.txt (" not in done.stderr
    assert "It is" not in done.stderr and "\x1b" not in done.stderr
    saved = trajectory.load(tmp_path / "run.jsonl").events
    assert isinstance(saved[0], RunStarted) and saved[0].files == ("in.txt",)
    assert isinstance(saved[-1], RunFinished) and saved[-1].answer == "It is **42**."


def test_run_as_json_lines_with_files_carried_out(cli: Cli, tmp_path: Path) -> None:
    draw = "import matplotlib.pyplot as plt; plt.plot([1, 2]); plt.savefig('plot.png'); plt.show(); print('\\ud800')"
    with ScriptedServer([execute(draw), "Done."]) as server:
        done = cli("run", "-", "--json", "--out", "made", *at(server), input="Draw.\n")
        assert server.requests[0]["messages"][-1]["content"] == "Draw."
    assert done.returncode == 0
    told = [json.loads(line) for line in done.stdout.splitlines()]
    assert [told[0]["type"], told[-1]["type"]] == ["run_started", "run_finished"]
    assert {"model_delta", "execution_output"} <= {event["type"] for event in told}
    assert (tmp_path / "made" / "plot.png").read_bytes().startswith(b"\x89PNG")
    assert "saved: made/plot.png" in done.stderr


def test_quiet_shows_the_answer_alone_and_a_model_that_never_acts_is_told(cli: Cli) -> None:
    with ScriptedServer(["Hello\x1b]0;title\x07!"] * 2) as server:
        done = cli("run", "hi", "--quiet", "--sandbox", "unsafe-process", *at(server))
    assert (done.returncode, done.stdout) == (0, "Hello!\n")
    warning, hint = done.stderr.splitlines()
    assert warning.startswith("WARNING: no boundary")
    assert hint.startswith("hint: the model never ran any code") and "--format fences" in hint


@pytest.mark.parametrize(
    ("options", "behaviour", "status", "said"),
    [
        (["--max-turns", "1"], {}, 3, "ended: no answer after 1 turn"),
        ([], {"api_key": "right"}, 4, "error: "),
    ],
    ids=["budget", "wrong-key"],
)
def test_how_a_run_ends_without_an_answer(
    cli: Cli, options: list[str], behaviour: dict[str, Any], status: int, said: str
) -> None:
    with ScriptedServer([execute("1")] * 9, **behaviour) as server:
        done = cli("run", "t", "--sandbox", "unsafe-process", *options, *at(server), OPENAI_API_KEY="sk-wrong")
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr and "Traceback" not in done.stderr and "sk-wrong" not in done.stderr


@pytest.fixture(scope="module")
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """A run with a server that is not there: started early, since it tries several times."""
    home = tmp_path_factory.mktemp("unreachable")
    options = ["--base-url", "http://127.0.0.1:1/v1", "--model", "m", "--sandbox", "unsafe-process"]
    with subprocess.Popen(
        command("run", "t", "--json", *options),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(home),
    ) as process:
        yield process
        process.kill()


def started_run(home: Path, cwd: Path, *arguments: str | Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env=environment(home),
    )


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"{text!r} did not come")


@pytest.mark.usefixtures("unreachable")
def test_ctrl_c_stops_the_code_keeps_what_was_done_and_leaves_nothing_behind(home: Path, tmp_path: Path) -> None:
    code = "open('made.txt', 'w').write('x')\nprint('going', flush=True)\nimport time; time.sleep(60)"
    with ScriptedServer([execute(code)]) as server:
        arguments = ["run", "t", "--json", "--save", "run.jsonl", "--out", "made", *at(server)]
        with started_run(home, tmp_path, *arguments) as process:
            read_until(process, "execution_output")
            below = descendants(process.pid)
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=40)
    assert process.returncode == 130, err
    assert len(below) >= 2 and wait_gone(below) == set()
    assert json.loads(out.splitlines()[-1])["reason"] == "cancelled"
    last = trajectory.load(tmp_path / "run.jsonl").events[-1]
    assert isinstance(last, RunFinished) and last.reason == "cancelled"
    assert (tmp_path / "made" / "made.txt").read_text() == "x"
    assert "Traceback" not in err


def test_a_second_ctrl_c_does_not_wait_for_code_that_will_not_stop(home: Path, tmp_path: Path) -> None:
    code = (
        "import time, signal; signal.signal(signal.SIGINT, signal.SIG_IGN); print('going', flush=True); time.sleep(60)"
    )
    with ScriptedServer([execute(code)]) as server:
        arguments = ["run", "t", "--json", "--save", "run.jsonl", *at(server)]
        with started_run(home, tmp_path, *arguments) as process:
            read_until(process, "execution_output")
            below = descendants(process.pid)
            for _ in range(3):
                process.send_signal(signal.SIGINT)
                time.sleep(0.2)  # the same signal twice at once is one signal
            _, err = process.communicate(timeout=40)
    assert process.returncode == 130, err
    assert wait_gone(below) == set()
    assert isinstance(trajectory.load(tmp_path / "run.jsonl").events[0], RunStarted)


def test_sigterm_while_the_sandbox_starts(home: Path, tmp_path: Path) -> None:
    with ScriptedServer(["x"]) as server:
        with started_run(home, tmp_path, "run", "t", *at(server)) as process:
            assert process.stderr is not None
            assert "model:" in process.stderr.readline()
            below = descendants(process.pid)
            process.send_signal(signal.SIGTERM)
            out, err = process.communicate(timeout=40)
    assert (process.returncode, out, err) == (143, "", "")
    assert wait_gone(below) == set()


# --- exec ---------------------------------------------------------------------------------------------------------


def test_exec_passes_everything_on(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "data.txt").write_text("6")
    code = (
        "import sys; print('x' * 3_000_000); print('\\x1b[31mraw', file=sys.stderr)\n"
        "open('made.txt', 'w').write('y'); import matplotlib.pyplot as plt; plt.plot([1]); plt.show()\n"
        "int(open('data.txt').read()) * 7"
    )
    done = cli("exec", code, "--file", "data.txt", "--out", "made")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "x" * 3_000_000 + "\n42\n"
    assert "\x1b[31mraw\n" in done.stderr
    assert (tmp_path / "made" / "made.txt").read_text() == "y"
    assert (tmp_path / "made" / "displayed-1.png").read_bytes().startswith(b"\x89PNG")


def test_exec_of_a_file_that_fails(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_bytes(b"\xef\xbb\xbfprint('before')\n1 / 0\n")
    done = cli("exec", "fails.py", "--sandbox", "unsafe-process")
    assert (done.returncode, done.stdout) == (1, "before\n")
    assert done.stderr.startswith("WARNING: no boundary")
    assert "----> 2 1 / 0" in done.stderr and "ZeroDivisionError: division by zero" in done.stderr
    assert "\x1b" not in done.stderr


def test_exec_of_stdin_as_json_with_a_time_limit(cli: Cli) -> None:
    done = cli("exec", "--json", "--timeout", "1", input="print('\\ud800', flush=True)\nwhile True: pass")
    assert done.returncode == 1
    result = json.loads(done.stdout)
    assert result["status"] == "timeout" and "1 seconds" in result["notice"]


def test_exec_into_a_pipe_that_closes(home: Path) -> None:
    endless = "while True: print('y')"
    with subprocess.Popen(
        command("exec", endless), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(home)
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == b"y\n"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(40) == 141


# --- replay and export --------------------------------------------------------------------------------------------


def test_replay_shows_a_run_as_it_was(cli: Cli, recording: Path) -> None:
    done = cli("replay", recording)
    assert done.returncode == 0
    told = done.stdout.splitlines()
    expected = ["What is x?", "I compute.", "│ print('six')", "│ x = 6 * 7", "  six", "It is 42."]
    assert [line for line in told if line in expected] == expected
    recording.write_bytes(recording.read_bytes()[:-9])
    torn = cli("replay", recording, "--quiet")
    assert (torn.returncode, torn.stdout) == (0, "") and "cut off" in torn.stderr


def test_replay_live_runs_the_code_again(cli: Cli, recording: Path, tmp_path: Path) -> None:
    done = cli("replay", recording, "--live", "--save", "again.jsonl")
    assert (done.returncode, done.stdout) == (0, "It is 42.\n"), done.stderr
    results = [e.result for e in trajectory.load(tmp_path / "again.jsonl").events if isinstance(e, ExecutionFinished)]
    assert [r.stdout for r in results] == ["six\n"]
    assert results[0].changes is not None  # which the recording does not hold


@pytest.mark.parametrize(("suffix", "target"), [("ipynb", "notebook"), ("html", "html"), ("jsonl", "conversations")])
def test_export(cli: Cli, recording: Path, tmp_path: Path, suffix: str, target: str) -> None:
    assert cli("export", recording, "-o", f"run.{suffix}").returncode == 0
    written = (tmp_path / f"run.{suffix}").read_text()
    assert cli("export", recording, "--to", target).stdout == written
    if target == "html":
        assert written.startswith("<!") and "It is 42." in written
    else:
        made = json.loads(written)
        assert made["id"] == "recorded" if target == "conversations" else made["nbformat"] == 4


# --- chat and the live screen -------------------------------------------------------------------------------------


def test_chat_on_pipes_reads_line_by_line(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in.txt").write_text("6")
    lines = (
        "/files put in.txt\nFirst\n\n/state\n/files\n/nonsense\n/save chat.jsonl\n/files get out.txt\nSecond\n/quit\nx"
    )
    code = "n = [1, 2]; open('out.txt', 'w').write(open('in.txt').read())"
    with ScriptedServer([execute(code), "One.", execute("print(n)"), "Two."]) as server:
        done = cli("chat", *at(server), input=lines)
        assert "Files in /workspace: in.txt" in server.requests[0]["messages"][-1]["content"]
        assert len(server.requests) == 4
    assert done.returncode == 0, done.stderr
    assert [line.split() for line in done.stdout.splitlines()] == [
        ["One."],
        ["n", "list", "2"],
        ["in.txt", "1", "bytes"],
        ["out.txt", "1", "bytes"],
        ["Two."],
    ]
    assert "there is no command '/nonsense'" in error_of(done)
    assert "  [1, 2]" in done.stderr.splitlines()  # the state lived on
    assert (tmp_path / "out.txt").read_text() == "6"
    assert len([e for e in trajectory.load(tmp_path / "chat.jsonl").events if isinstance(e, RunFinished)]) == 1


def test_run_on_a_terminal_streams_and_highlights(home: Path, tmp_path: Path) -> None:
    code = "import time\nprint('begun \\x1b]0;title\\x07', flush=True)\nopen('go.txt', 'w')\n1 / 0"
    with (
        ScriptedServer([execute(code, thought="Let me see."), "It failed."]) as server,
        terminal(command("run", "t", *at(server)), environment(home), tmp_path) as screen,
    ):
        screen.expect("model: scripted")
        screen.expect("Let me see.")
        screen.expect("│ import time\n│ print")
        screen.expect("  begun \n")
        screen.expect("ZeroDivisionError: division by zero")
        screen.expect("It failed.")
        screen.expect("answered · 2 turns · 1 execution")
        assert screen.wait() == 0
        assert screen.text.count("It failed.") == 1
        assert "\x1b]0" not in screen.raw and "\x1b[" in screen.raw


def test_chat_on_a_terminal_survives_ctrl_c(home: Path, tmp_path: Path) -> None:
    sleep = "kept = 41\nprint('going', flush=True)\nimport time; time.sleep(60)"
    with (
        ScriptedServer([execute(sleep), execute("print('kept is', kept + 1)"), "It was kept."]) as server,
        terminal(command("chat", *at(server)), environment(home), tmp_path) as screen,
    ):
        screen.expect("›")
        screen.type("\x03")
        screen.expect("Ctrl-D or /quit ends")
        screen.expect("›")
        screen.type("Sleep a while\r")
        screen.expect("  going")
        screen.type("\x03\x03\x03")
        screen.expect("stopped: the run was cancelled")
        screen.expect("›")
        screen.type("And now?\r")
        screen.expect("  kept is 42")
        screen.expect("It was kept.")
        screen.expect("›")
        screen.type("/state\r")
        screen.expect("kept +int")
        screen.expect("›")
        screen.type("\x04")
        assert screen.wait() == 0
    history = home / "cache" / "codeact" / "history"
    assert "+And now?" in history.read_text()
    assert history.stat().st_mode & 0o077 == 0


# --- doctor, and what was started early ---------------------------------------------------------------------------


def test_doctor_proves_the_boundary(cli: Cli) -> None:
    done = cli("doctor", "--json")
    told = json.loads(done.stdout)
    assert {"Python", "Landlock", "sandbox", "model servers here"} <= told["facts"].keys()
    breaches = [outcome for outcome in told["canaries"] if not outcome["held"]]
    assert (done.returncode, breaches, told["error"], told["held"]) == (0, [], None, True)
    assert len(told["canaries"]) > 50


def test_doctor_fails_where_there_is_no_boundary(cli: Cli) -> None:
    done = cli("doctor", "--sandbox", "unsafe-process")
    assert done.returncode == 5
    assert "NO    " in done.stdout and "WARNING: no boundary" in done.stderr
    assert "the boundary does not hold" in error_of(done)


def test_doctor_examines_the_network_that_is_configured(cli: Cli) -> None:
    done = cli("doctor", "--network", "host")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^open +network +tcp-to-loopback ", done.stdout, re.MULTILINE)
    assert "NO    " not in done.stdout and "given the network of the host" in done.stdout
    done = cli("doctor", "--network", "host", "--allow-net", "api.example.org")
    assert done.returncode == 2 and "allow" in error_of(done)


def test_a_server_that_is_not_there(unreachable: subprocess.Popen[str]) -> None:
    out, err = unreachable.communicate(timeout=60)
    assert unreachable.returncode == 4
    assert json.loads(out.splitlines()[-1])["reason"] == "model_error"
    assert "is the model server running?" in err and "Traceback" not in err


def test_run_and_exec_as_an_ordinary_user(tmp_path: Path) -> None:
    home = home_for_others(tmp_path)
    code = "import os; print(os.environ.get('HOST_SECRET'), os.getuid())"
    done = run_module(home, "codeact", "exec", code, variables={"HOST_SECRET": "x"})
    assert (done.returncode, done.stdout) == (0, "None 1000\n"), done.stderr
    with ScriptedServer(["<execute>print(6 * 7)</execute>", "It is 42."]) as server:
        variables = {"OPENAI_BASE_URL": server.base_url, "CODEACT_MODEL": "scripted"}
        done = run_module(home, "codeact", "run", "What is six times seven?", variables=variables)
    assert (done.returncode, done.stdout) == (0, "It is 42.\n"), done.stderr
    assert "42" in server.requests[1]["messages"][-1]["content"]
