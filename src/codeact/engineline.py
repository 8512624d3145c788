"""``codeact engine`` and ``codeact engine key``: sessions as a service, and who may use it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from codeact.errors import UsageError

if TYPE_CHECKING:
    from codeact.engine.keys import Keys

_SETTINGS = {"max_content_width": 100, "help_option_names": ["-h", "--help"]}
engine = typer.Typer(
    rich_markup_mode=None, context_settings=_SETTINGS, invoke_without_command=True, no_args_is_help=False
)
key = typer.Typer(help="The keys of the engine's clients.", rich_markup_mode=None, context_settings=_SETTINGS)
engine.add_typer(key, name="key")

Port: TypeAlias = Annotated[int, typer.Option(min=0, max=65535, help="0: any that is free.")]
Host: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="Where to listen; beyond this machine with keys only.")
]
SandboxName: TypeAlias = Annotated[str, typer.Option("--sandbox", metavar="NAME", help="Where code runs: local.")]
State: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Keys, and which sessions there were [default: CODEACT_ENGINE_STATE, else ~/.local/state/codeact/engine].",
    ),
]
MaxSessions: TypeAlias = Annotated[int | None, typer.Option(metavar="N", help="Sessions at once [default: 1000].")]
MaxExecutions: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="Executions at once; more wait [default: 32].")
]
Idle: TypeAlias = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds until an unused session ends [default: 600].")
]
Age: TypeAlias = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds until any session ends [default: 86400].")
]
Drain: TypeAlias = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds for code to finish at the end [default: 20].")
]
Timeout: TypeAlias = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds that code may run if it names none [default: 60].")
]
MaxTimeout: TypeAlias = Annotated[
    float | None, typer.Option(metavar="S", help="Seconds that it can ask for [default: 3600].")
]
Memory: TypeAlias = Annotated[
    int | None, typer.Option(metavar="MIB", help="Memory of a session, in MiB [default: 4096].")
]
Disk: TypeAlias = Annotated[int | None, typer.Option(metavar="MIB", help="Files of a session, in MiB [default: 1024].")]
NetworkKind: TypeAlias = Annotated[
    str, typer.Option("--network", metavar="KIND", help="What sessions may ask for: none or host.")
]
AllowNet: TypeAlias = Annotated[
    list[str] | None, typer.Option(metavar="NAMES", help="Hosts that sessions may ask for; repeatable.")
]


@engine.callback()
def serve(
    context: typer.Context,
    host: Host = "127.0.0.1",
    port: Port = 8081,
    sandbox: SandboxName = "local",
    state: State = None,
    max_sessions: MaxSessions = None,
    max_executions: MaxExecutions = None,
    idle: Idle = None,
    age: Age = None,
    drain: Drain = None,
    timeout: Timeout = None,
    max_timeout: MaxTimeout = None,
    memory: Memory = None,
    disk: Disk = None,
    network: NetworkKind = "none",
    allow_net: AllowNet = None,
) -> int:
    """Serve sessions over HTTP; without a subcommand, until Ctrl-C or SIGTERM.

    Clients: Sandbox("http://host:8081", key=…), --sandbox http://host:8081, curl, and those of the original system.
    """
    directory = state or _state()
    context.obj = directory
    if context.invoked_subcommand is not None:
        return 0
    _need("fastapi", "uvicorn", "prometheus_client")
    from pydantic import ValidationError

    from codeact.engine.options import Options
    from codeact.engine.server import serve

    given: dict[str, object] = {
        "max_sessions": max_sessions,
        "max_executions": max_executions,
        "idle": idle,
        "age": age,
        "drain": drain,
    }
    given |= {"max_timeout": max_timeout, "network": network, "allow_net": tuple(allow_net or ())}
    limits: dict[str, object] = {"timeout": timeout, "memory": memory and memory << 20, "disk": disk and disk << 20}
    try:
        options = Options.model_validate(_set(given) | {"limits": _set(limits)})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = str(first["loc"][-1]).replace("_", "-")
        raise UsageError(f"--{name}: {first['msg'][:1].lower()}{first['msg'][1:]}") from error
    from codeact.sandbox import KINDS

    if sandbox not in KINDS:
        raise UsageError(f"there is no sandbox {sandbox!r} for an engine: choose one of {', '.join(KINDS)}")
    if sandbox == "unsafe-process":
        from codeact.running import NO_BOUNDARY

        sys.stderr.write(f"{NO_BOUNDARY}\n")
    return serve(host, port, sandbox, options, directory, _say_started)


def _say_started(url: str) -> None:
    sys.stderr.write(f"The engine listens on {url} (stop it with Ctrl-C)\n")
    sys.stderr.flush()


@key.command(name="add")
def add_key(
    context: typer.Context,
    owner: Annotated[str, typer.Argument(metavar="OWNER", help="Whose it is; turns are shared out between owners.")],
    max_sessions: Annotated[int | None, typer.Option(metavar="N", min=0, help="Sessions at once.")] = None,
    max_executions: Annotated[int | None, typer.Option(metavar="N", min=1, help="Executions at once.")] = None,
) -> int:
    """Make a key and show it, this once: only its hash is kept."""
    id, text = _keys(context).add(owner, max_sessions, max_executions)
    sys.stderr.write(f"Key {id} of {owner}. It is shown this once:\n")
    sys.stdout.write(f"{text}\n")
    return 0


@key.command(name="list")
def list_keys(context: typer.Context) -> int:
    """List the keys: id, owner, quotas."""
    for tenant, _ in _keys(context).list():
        quotas = f"sessions {tenant.max_sessions or '-'}  executions {tenant.max_executions or '-'}"
        sys.stdout.write(f"{tenant.id}  {quotas}  {tenant.owner}\n")
    return 0


@key.command(name="remove")
def remove_key(
    context: typer.Context, id: Annotated[str, typer.Argument(metavar="ID", help="As list shows it.")]
) -> int:
    """Remove a key: it is refused from now on, and its sessions end."""
    _keys(context).remove(id)
    return 0


def _keys(context: typer.Context) -> Keys:
    from codeact.engine.database import connect
    from codeact.engine.keys import Keys

    return Keys(connect(context.obj))


def _state() -> Path:
    from codeact.engine.database import state_directory

    return state_directory()


def _set(options: dict[str, object]) -> dict[str, object]:
    return {name: value for name, value in options.items() if value is not None}


def _need(*modules: str) -> None:
    import importlib.util

    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f"the engine needs {', '.join(missing)}: pip install 'codeact[engine]'")
