"""The command line: parses, chooses what to call, and turns what went wrong into one line and an exit status.

Each command imports what it needs when it is called, so that ``codeact --help`` is there at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from codeact import __version__, engineline
from codeact.errors import CodeActError, ModelError, SandboxError, TrajectoryError, UsageError

if TYPE_CHECKING:
    from codeact.running import Wish

EXIT_CODES = """\b
Exit codes:
    0  answered; done
    1  something unexpected; for exec: the code raised, timed out or died
    2  the command was used wrongly (option, file, configuration)
    3  a budget ended before there was an answer
    4  the model or its server failed
    5  the sandbox failed; for doctor: the boundary did not hold
  130  interrupted by Ctrl-C (143: by SIGTERM, 129: by SIGHUP)
  141  whoever read the output went away"""

_SETTINGS = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
app = typer.Typer(
    name="codeact",
    help="An agent whose only action is Python, run in an isolated, stateful Jupyter kernel.",
    epilog=EXIT_CODES,
    context_settings=_SETTINGS,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
config = typer.Typer(help="The configuration.", rich_markup_mode=None, context_settings=_SETTINGS)
app.add_typer(config, name="config", epilog=EXIT_CODES)
kernelspec = typer.Typer(help="The sandbox as a kernel for Jupyter.", rich_markup_mode=None, context_settings=_SETTINGS)
app.add_typer(kernelspec, name="kernelspec", epilog=EXIT_CODES)
app.add_typer(engineline.engine, name="engine", epilog=EXIT_CODES)

evaluate = typer.Typer(help="Evaluations.", rich_markup_mode=None, context_settings=_SETTINGS)
app.add_typer(evaluate, name="eval", epilog=EXIT_CODES)

Flags: TypeAlias = dict[str, object]
ModelName: TypeAlias = Annotated[
    str | None,
    typer.Option("--model", "-m", metavar="NAME", help="A model's name, a .gguf file, or replay:TRAJECTORY."),
]
BaseUrl: TypeAlias = Annotated[
    str | None, typer.Option(metavar="URL", help="The model server (its key: variable OPENAI_API_KEY).")
]
Format: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="How the model writes code: tags, fences or tool_call.")
]
SandboxName: TypeAlias = Annotated[
    str | None,
    typer.Option(
        "--sandbox",
        metavar="NAME",
        help="Where code runs: local [default], unsafe-process (no boundary), an engine's URL.",
    ),
]
Files: TypeAlias = Annotated[
    list[Path] | None, typer.Option("--file", "-f", metavar="FILE", help="Put into the workspace; repeatable.")
]
Tools: TypeAlias = Annotated[
    list[Path] | None,
    typer.Option(metavar="FILE", help="Python whose @tool functions the code may call; run here; repeatable."),
]
Context: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="Where the window fills up: summarize [default], elide, truncate or none."),
]
Window: TypeAlias = Annotated[
    int | None, typer.Option("--context-window", metavar="N", help="The model's window in tokens [default: its own].")
]
MaxTurns: TypeAlias = Annotated[int | None, typer.Option(metavar="N", help="Replies of the model [default: 20].")]
MaxTokens: TypeAlias = Annotated[int | None, typer.Option(metavar="N", help="Tokens of the whole run.")]
MaxSeconds: TypeAlias = Annotated[float | None, typer.Option(metavar="S", help="Seconds of the whole run.")]
MaxCost: TypeAlias = Annotated[float | None, typer.Option(metavar="USD", help="Price of the whole run, where known.")]
Timeout: TypeAlias = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds that one piece of code may run [default: 60].")
]
Memory: TypeAlias = Annotated[
    int | None, typer.Option(metavar="MIB", help="Memory of the session, in MiB [default: 4096].")
]
NetworkName: TypeAlias = Annotated[
    str | None, typer.Option("--network", metavar="KIND", help="What the code may reach: none [default] or host.")
]
AllowNet: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="NAMES", help="Hosts that it may reach over HTTP and HTTPS: a.org,*.b.org; repeatable."),
]
Mcp: TypeAlias = Annotated[
    str | None, typer.Option("--mcp", metavar="FILE", help="MCP servers whose tools the code can call (mcpServers).")
]
Save: TypeAlias = Annotated[
    Path | None, typer.Option("--save", metavar="FILE", help="Record every event as it happens (JSONL).")
]
Out: TypeAlias = Annotated[
    Path | None, typer.Option("--out", metavar="DIR", help="Copy the files and pictures that the code made to DIR.")
]
Json: TypeAlias = Annotated[bool, typer.Option("--json", help="One JSON event a line on stdout.")]
Quiet: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Show nothing but the answer.")]


@app.callback(invoke_without_command=True)
def codeact(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False
) -> None:
    if version:
        typer.echo(f"codeact {__version__}")
        raise typer.Exit()
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(2)


@app.command(epilog=EXIT_CODES)
def run(
    task: Annotated[
        str | None, typer.Argument(metavar="TASK", help="What is to be done; -: read it from stdin.")
    ] = None,
    file: Files = None,
    tools: Tools = None,
    model: ModelName = None,
    base_url: BaseUrl = None,
    format: Format = None,
    sandbox: SandboxName = None,
    context: Context = None,
    context_window: Window = None,
    max_turns: MaxTurns = None,
    max_tokens_total: MaxTokens = None,
    max_seconds: MaxSeconds = None,
    max_cost: MaxCost = None,
    timeout: Timeout = None,
    memory: Memory = None,
    network: NetworkName = None,
    allow_net: AllowNet = None,
    mcp: Mcp = None,
    save: Save = None,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Solve one task.

    On a terminal you see everything as it happens. Elsewhere stdout gets the answer and stderr the rest.
    """
    from codeact import running

    flags: Flags = dict(model=model, base_url=base_url, format=format, sandbox=sandbox, max_turns=max_turns)
    flags |= dict(context=context, context_window=context_window)
    flags |= dict(max_tokens_total=max_tokens_total, max_seconds=max_seconds, max_cost=max_cost)
    flags |= dict(timeout=timeout, memory=memory, network=network, allow_net=allow_net, mcp=mcp)
    text = _argument_or_stdin(task, 'say what is to be done: codeact run "TASK"')
    return _wait(lambda: running.solve(_wish(flags, file, save, out, json, quiet, tools), text))


@app.command(epilog=EXIT_CODES)
def chat(
    id: Annotated[
        str | None, typer.Argument(metavar="ID", help="What to resume, or its file [default: the latest].")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a conversation: its code is run again first.")
    ] = False,
    file: Files = None,
    tools: Tools = None,
    model: ModelName = None,
    base_url: BaseUrl = None,
    format: Format = None,
    sandbox: SandboxName = None,
    context: Context = None,
    context_window: Window = None,
    max_turns: MaxTurns = None,
    max_tokens_total: MaxTokens = None,
    max_seconds: MaxSeconds = None,
    max_cost: MaxCost = None,
    timeout: Timeout = None,
    memory: Memory = None,
    network: NetworkName = None,
    allow_net: AllowNet = None,
    mcp: Mcp = None,
    save: Save = None,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Talk with the agent over one living kernel.

    Budgets hold for each message. Without a terminal, every line of stdin is a message. /help lists the commands.
    Every conversation is kept (or recorded where --save says), and goes on with: codeact chat --resume ID
    """
    from codeact import chat as conversation
    from codeact import saved

    if id is not None and not resume:
        raise UsageError(f"chat takes no {id!r}: to go on with a conversation, write codeact chat --resume {id}")

    flags: Flags = dict(model=model, base_url=base_url, format=format, sandbox=sandbox, max_turns=max_turns)
    flags |= dict(context=context, context_window=context_window)
    flags |= dict(max_tokens_total=max_tokens_total, max_seconds=max_seconds, max_cost=max_cost)
    flags |= dict(timeout=timeout, memory=memory, network=network, allow_net=allow_net, mcp=mcp)
    resumed = saved.find(id) if resume else None
    return _wait(lambda: conversation.chat(_wish(flags, file, save, out, json, quiet, tools), resumed))


@app.command(name="exec", epilog=EXIT_CODES)
def execute(
    code: Annotated[
        str | None, typer.Argument(metavar="CODE|FILE", help="Python, or a file that holds it; -: read from stdin.")
    ] = None,
    file: Files = None,
    sandbox: SandboxName = None,
    timeout: Timeout = None,
    memory: Memory = None,
    network: NetworkName = None,
    allow_net: AllowNet = None,
    out: Out = None,
    json: Annotated[bool, typer.Option("--json", help="The whole result as one JSON object on stdout.")] = False,
) -> int:
    """Run Python in the sandbox, without a model.

    The code's stdout goes to stdout, with the value of its last expression; its stderr and traceback to stderr.
    """
    from codeact import running

    text = _code(code)
    flags: Flags = dict(sandbox=sandbox, timeout=timeout, memory=memory, network=network, allow_net=allow_net)
    return _wait(lambda: running.execute(_wish(flags, file, None, out, json, False), text))


@app.command(epilog=EXIT_CODES)
def replay(
    trajectory: Annotated[Path, typer.Argument(metavar="TRAJECTORY", help="A file that --save wrote.")],
    live: Annotated[
        bool, typer.Option("--live", help="Run the code again; only the replies are recorded ones.")
    ] = False,
    file: Files = None,
    sandbox: SandboxName = None,
    timeout: Timeout = None,
    memory: Memory = None,
    network: NetworkName = None,
    allow_net: AllowNet = None,
    save: Save = None,
    out: Out = None,
    json: Json = False,
    quiet: Quiet = False,
) -> int:
    """Show a recorded run again; with --live, run its code anew.

    --file, --sandbox, --timeout, --memory, --network, --allow-net, --save and --out are for --live.
    """
    from codeact import running
    from codeact.trajectory import load

    recording = load(trajectory)
    if live:
        if save is not None and save.exists() and save.samefile(trajectory):
            raise UsageError(f"{save} is the recording itself: save to another file")
        flags: Flags = dict(sandbox=sandbox, timeout=timeout, memory=memory, network=network, allow_net=allow_net)
        return _wait(lambda: running.replay(_wish(flags, file, save, out, json, quiet), recording))
    if any(option is not None for option in (file, sandbox, timeout, memory, network, allow_net, save, out)):
        options = "--file, --sandbox, --timeout, --memory, --network, --allow-net, --save and --out"
        raise UsageError(f"nothing is run here: {options} need --live")
    return running.show(recording, "json" if json else "answer" if quiet else "events")


@app.command(epilog=EXIT_CODES)
def export(
    trajectory: Annotated[Path, typer.Argument(metavar="TRAJECTORY", help="A file that --save wrote.")],
    to: Annotated[
        Literal["notebook", "html", "conversations"] | None,
        typer.Option("--to", help="What to make [default: as the suffix of -o says]."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to [default: stdout].")
    ] = None,
) -> int:
    """Turn a recorded run into a notebook, a page or a training record."""
    from codeact import export as exports

    return exports.export(trajectory, to, output)


@app.command(epilog=EXIT_CODES)
def mcp(
    http: Annotated[
        str | None,
        typer.Option("--http", metavar="HOST:PORT", help="Serve streamable HTTP there [default: stdin and stdout]."),
    ] = None,
    sandbox: SandboxName = None,
    timeout: Timeout = None,
    memory: Memory = None,
    network: NetworkName = None,
    allow_net: AllowNet = None,
) -> int:
    """Be an MCP server whose tool is Python in the sandbox: one kernel for each MCP session.

    A HOST that is not of this machine's loopback lets anybody who reaches it run code in the sandbox.
    """
    from codeact import mcpserver, settings

    flags: Flags = dict(sandbox=sandbox, timeout=timeout, memory=memory, network=network, allow_net=allow_net)
    effective = settings.load(flags).settings
    return _wait(lambda: mcpserver.serve(effective, http))


@app.command(epilog=EXIT_CODES)
def doctor(
    sandbox: SandboxName = None,
    network: NetworkName = None,
    allow_net: AllowNet = None,
    json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> int:
    """Say what this machine offers, and prove the boundary with live attacks on the sandbox as it is configured.

    An attack that only the chosen network lets through is shown as open, and is no failure.
    """
    from codeact import doctor as examination
    from codeact import settings

    effective = settings.load(dict(sandbox=sandbox, network=network, allow_net=allow_net))
    return _wait(lambda: examination.examine(effective.settings, as_json=json))


@evaluate.command(name="tables", epilog=EXIT_CODES)
def evaluate_tables(
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="NAME", help="As for run; reference: walk the reference solutions."),
    ] = None,
    base_url: BaseUrl = None,
    format: Format = None,
    sandbox: SandboxName = None,
    limit: Annotated[int, typer.Option(metavar="N", min=1, help="How many tasks.")] = 60,
    split: Annotated[
        Literal["train", "held-out-tables", "held-out-words", "held-out-families"] | None,
        typer.Option(help="Which tasks [default: the three that are held out]."),
    ] = None,
    family: Annotated[list[str] | None, typer.Option(metavar="NAME", help="Of this family; repeatable.")] = None,
    level: Annotated[int | None, typer.Option(min=1, max=3, metavar="1-3", help="Of this difficulty.")] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Other tasks.")] = 0,
    parallel: Annotated[int, typer.Option(metavar="N", min=1, help="So many at a time.")] = 2,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Record every sample (JSONL); go on where it ends.")
    ] = None,
    replay: Annotated[
        Path | None,
        typer.Option("--replay", metavar="FILE", help="Say again what such a record holds; its code runs."),
    ] = None,
    max_turns: MaxTurns = None,
    max_seconds: MaxSeconds = None,
    timeout: Timeout = None,
    memory: Memory = None,
) -> int:
    """Data-analysis tasks with known answers.

    The report goes to stdout, progress to stderr.
    """
    from codeact import evaluating, settings

    if replay is not None and model is not None:
        raise UsageError("--replay and --model contradict each other: choose one")
    flags: Flags = dict(model=model, base_url=base_url, format=format, sandbox=sandbox, max_turns=max_turns)
    flags |= dict(max_seconds=max_seconds, timeout=timeout, memory=memory)
    choice = evaluating.Choice(limit, split, tuple(family or ()), level, seed, parallel, out, replay)
    return _wait(lambda: evaluating.tables(settings.load(flags).settings, choice))


@config.command(name="show", epilog=EXIT_CODES)
def show(json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False) -> int:
    """Show the effective settings and where each comes from."""
    import json as encoder

    from codeact import settings

    shown = settings.load().shown()
    if json:
        typer.echo(encoder.dumps({name: {"value": value, "from": origin} for name, (value, origin) in shown.items()}))
        return 0
    typer.echo(f"file: {settings.config_file()}{'' if settings.config_file().exists() else ' (there is none)'}\n")
    for name, (value, origin) in shown.items():
        text = ", ".join(value) if isinstance(value, tuple) else value
        typer.echo(f"{name:18}{'-' if text in (None, '') else text!s:32}  {origin}")
    return 0


@kernelspec.command(name="install", epilog=EXIT_CODES)
def install_kernelspec(
    user: Annotated[bool, typer.Option("--user", help="For this user, in every environment.")] = False,
    sys_prefix: Annotated[bool, typer.Option("--sys-prefix", help="In this Python's environment [default].")] = False,
    prefix: Annotated[Path | None, typer.Option("--prefix", metavar="DIR", help="Below this directory.")] = None,
    kernel: Annotated[
        str | None,
        typer.Option("--kernel", metavar="NAME", help="An installed kernel to sandbox [default: our Python]."),
    ] = None,
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The kernelspec's name [default: codeact, codeact-KERNEL]."),
    ] = None,
    display_name: Annotated[
        str | None, typer.Option(metavar="TEXT", help='As Jupyter shows it [default: "Python (codeact sandbox)"].')
    ] = None,
    memory: Memory = None,
) -> int:
    """Let JupyterLab and other clients start kernels in the sandbox."""
    from codeact import kernelspecs

    return kernelspecs.install((user, sys_prefix, prefix), kernel, name, display_name, memory)


@kernelspec.command(name="list", epilog=EXIT_CODES)
def list_kernelspecs() -> int:
    """List the kernelspecs that run in the sandbox."""
    from codeact import kernelspecs

    return kernelspecs.show()


@kernelspec.command(name="remove", epilog=EXIT_CODES)
def remove_kernelspec(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As list shows it.")] = "codeact",
) -> int:
    """Remove a kernelspec that runs in the sandbox."""
    from codeact import kernelspecs

    return kernelspecs.remove(name)


@kernelspec.command(name="refuse", hidden=True, epilog=EXIT_CODES)
def refuse_kernel(connection_file: Annotated[str, typer.Argument(metavar="FILE")] = "") -> int:
    """Start nothing: what a client runs that ignores provisioners."""
    from codeact import kernelspecs

    return kernelspecs.refuse()


# --- what the commands share --------------------------------------------------------------------------------------


def _wish(
    flags: Flags,
    files: list[Path] | None,
    save: Path | None,
    out: Path | None,
    json: bool,
    quiet: bool,
    tools: list[Path] | None = None,
) -> Wish:
    from codeact import settings
    from codeact.running import Wish

    if json and quiet:
        raise UsageError("--json and --quiet contradict each other: choose one")
    show: Literal["events", "json", "answer"] = "json" if json else "answer" if quiet else "events"
    return Wish(settings.load(flags).settings, tuple(files or ()), save, out, show, tuple(tools or ()))


def _wait(start: Callable[[], Coroutine[Any, Any, int]]) -> int:
    import asyncio

    return asyncio.run(start())


def _argument_or_stdin(argument: str | None, remedy: str) -> str:
    if argument is not None and argument != "-":
        return argument
    if argument is None and sys.stdin.isatty():
        raise UsageError(remedy)
    return _decoded(sys.stdin.buffer.read(), "stdin").removesuffix("\n")


def _code(argument: str | None) -> str:
    """The code: of the file that the argument names, of stdin, or the argument itself."""
    path = Path(argument) if argument and _exists(argument) else None
    if path is not None:
        if path.is_dir():
            raise UsageError(f"{path} is a directory: name a file or write code")
        try:
            return _decoded(path.read_bytes(), str(path))
        except OSError as error:
            raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if argument is not None and argument.endswith(".py") and not any(c.isspace() for c in argument):
        raise UsageError(f"there is no file {argument}")
    code = _argument_or_stdin(argument, 'say what is to be run: codeact exec "CODE", codeact exec FILE')
    if not code.strip():
        raise UsageError("the code is empty: there is nothing to run")
    return code


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except (OSError, ValueError):  # code makes strange paths: too long, or with characters that none has
        return False


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{source} is not UTF-8 text (byte {error.start})") from error


# --- errors and exits ---------------------------------------------------------------------------------------------


def main() -> None:
    """The entry point: runs a command and exits with its status."""
    _prepare_streams()
    try:
        status = _guarded(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        status = 141
        for stream in (sys.stdout, sys.stderr):  # what is still buffered has nobody to go to
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def _guarded(arguments: list[str]) -> int:
    try:
        return app(arguments, prog_name="codeact", standalone_mode=False) or 0
    except typer.TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        return _failed(f"{message.rstrip('.')}. See: codeact --help" if message else "see codeact --help", 2)
    except (UsageError, TrajectoryError) as error:
        return _failed(str(error), 2)
    except ModelError as error:
        return _failed(str(error), 4)
    except SandboxError as error:
        return _failed(str(error), 5)
    except CodeActError as error:
        return _failed(str(error), 1)
    except BrokenPipeError:
        raise
    except SystemExit as error:  # typer's way to tell of a closed pipe
        raise BrokenPipeError from error
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        if os.environ.get("CODEACT_DEBUG"):
            raise
        said = f"{type(error).__name__}: {error}".rstrip(": ")
        return _failed(f"unexpected: {said} (run with CODEACT_DEBUG=1 for the traceback)", 1)


def _failed(message: str, status: int) -> int:
    from codeact.plaintext import plain

    sys.stdout.flush()
    sys.stderr.write(f"error: {' '.join(plain(message).split())}\n")
    return status


def _prepare_streams() -> None:
    """Streams that take any text, and exist."""
    for name in ("stdin", "stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w"))
        elif name != "stdin":
            stream.reconfigure(errors="replace")
