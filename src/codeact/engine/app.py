"""The routes: each reads a request, asks the manager, and writes the answer down."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp

from codeact import __version__
from codeact.engine import answers, page
from codeact.engine.bounds import Bounds, refusal
from codeact.engine.errors import Refused, told
from codeact.engine.manager import Manager
from codeact.engine.transfers import router as transfers
from codeact.engine.wiring import Access, AManager, ATenant, EngineApp, SessionId
from codeact.errors import CodeActError, StateLost
from codeact.observation import upstream_result_text
from codeact.sandbox import api

logger = logging.getLogger("codeact.engine")

_CAUSES = {
    404: "not_found",
    405: "method",
    415: "media_type",
    401: "unauthorized",
    408: "slow_request",
    413: "body_size",
}
_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": api.Refusal, "description": text}
    for status, text in {
        400: "The request is broken.",
        401: "The key is missing or wrong.",
        403: "The engine has no keys and serves its own machine only.",
        404: "There is no such session (or it is somebody else's).",
        409: "The id is taken, or the session cannot be forked.",
        408: "The request came too slowly.",
        410: "The session has ended, and its state is lost: delete it to use its id again.",
        413: "Too large.",
        422: "The request says something that cannot be.",
        429: "Full; try again after Retry-After seconds.",
        503: "The sandbox failed, or the engine is being stopped.",
        507: "There is no room on the engine's disk.",
    }.items()
}


def make_app(manager: Manager) -> ASGIApp:
    """The engine as an ASGI application. Its life is the manager's: it starts with it and ends every session."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        await manager.start()
        try:
            yield
        finally:
            await manager.close()

    app = EngineApp(
        title="codeact engine",
        version=__version__,
        description="Stateful, isolated Python sessions over HTTP.",
        lifespan=life,
        docs_url=None,
        redoc_url=None,
        responses=_REFUSALS,
    )
    app.state.manager = manager
    app.state.access = access = Access(manager)
    _handle_errors(app, manager)
    _service_routes(app)
    _session_routes(app)
    _execution_routes(app)
    app.include_router(transfers)
    return Bounds(app, manager.options, manager.metrics, access.open_to_all)


def _handle_errors(app: FastAPI, manager: Manager) -> None:
    def answer(status: int, cause: str, message: str, retry_after: int | None = None) -> Response:
        return refusal(Refused(status, cause, message, retry_after), manager.metrics)

    async def ours(_: Request, error: Exception) -> Response:
        assert isinstance(error, CodeActError)
        status, code = told(error)
        retry = error.retry_after if isinstance(error, Refused) else 5 if status == 503 else None
        return answer(status, code, str(error), retry)

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])[:200]
        return answer(422, "invalid", f"{place}: {first['msg']}"[:500])

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = answer(error.status_code, _CAUSES.get(error.status_code, "bad_request"), str(error.detail))
        response.headers.update(error.headers or {})
        return response

    async def unexpected(_: Request, error: Exception) -> Response:
        logger.error("a request failed", exc_info=error)
        return answer(500, "internal", "the engine failed; its log tells more")

    app.add_exception_handler(CodeActError, ours)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)
    app.add_exception_handler(Exception, unexpected)


def _service_routes(app: FastAPI) -> None:
    @app.get("/healthz", tags=["service"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def healthz() -> Response:
        """The process answers."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz", tags=["service"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def readyz(manager: AManager) -> Response:
        """New sessions are taken: 503 while the engine is being stopped."""
        if manager.draining:
            raise Refused(503, "draining", "the engine is being stopped", 5)
        return Response("ready\n", media_type="text/plain")

    @app.get("/metrics", tags=["service"], response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics(manager: AManager, _: ATenant) -> Response:
        """For Prometheus."""
        return Response(manager.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page.rendered(app.openapi()), headers={"Content-Security-Policy": page.POLICY})

    @app.post("/execute", tags=["original"], response_model=api.OldExecuted)
    async def execute(asked: api.OldExecute, request: Request, manager: AManager, tenant: ATenant) -> Response:
        """The original system's interface: a session is made with its first code. Going away stops the code."""
        session, made, lost = await manager.create_old(tenant, asked.convid)
        execution = session.execute(asked.code, None, None)
        result = await answers.result(session, execution, request)
        text = (lost or "") + upstream_result_text(result)
        if result.status == "died" or result.fresh_kernel:
            text = f"{text}\n[{result.notice}]"
        answer = api.OldExecuted(result=text, new_kernel_created=made or result.fresh_kernel)
        return answers.value(answer)


def _session_routes(app: FastAPI) -> None:
    @app.post("/v1/sessions", tags=["sessions"], status_code=201, response_model=api.SessionInfo,
              responses={200: {"model": api.SessionInfo, "description": "It was there already."}})  # fmt: skip
    async def create(asked: api.NewSession, manager: AManager, tenant: ATenant) -> Response:
        """Make a session; the one of that id where it is there already."""
        session, made = await manager.create(tenant, asked)
        return answers.value(session.info(existed=not made), 201 if made else 200)

    @app.get("/v1/sessions", tags=["sessions"], response_model=api.SessionList)
    async def sessions(manager: AManager, tenant: ATenant) -> Response:
        """The sessions of this key."""
        return answers.value(api.SessionList(sessions=tuple(s.info() for s in manager.owned(tenant))))

    @app.get("/v1/sessions/{id}", tags=["sessions"], response_model=api.SessionInfo)
    async def session(id: SessionId, manager: AManager, tenant: ATenant) -> Response:
        return answers.value(manager.find(tenant, id).info(existed=True))

    @app.delete("/v1/sessions/{id}", tags=["sessions"], status_code=204)
    async def delete(id: SessionId, manager: AManager, tenant: ATenant) -> None:
        """End a session and remove all that it had; of one that is lost, take note of that."""
        try:
            await manager.delete(manager.find(tenant, id))
        except StateLost:
            manager.forget(tenant, id)

    @app.post("/v1/sessions/{id}/restart", tags=["sessions"], response_model=api.SessionInfo)
    async def restart(id: SessionId, manager: AManager, tenant: ATenant) -> Response:
        """Stop what runs and give up the variables; files stay. The next execution has a fresh kernel."""
        session = manager.find(tenant, id)
        await session.restart()
        return answers.value(session.info())

    @app.post("/v1/sessions/{id}/fork", tags=["sessions"], status_code=201, response_model=api.SessionList)
    async def fork(asked: api.Fork, id: SessionId, manager: AManager, tenant: ATenant) -> Response:
        """Sessions with the same live variables and files; waits for the code that runs."""
        made = await manager.fork(manager.find(tenant, id), asked.count, asked.ids)
        return answers.value(api.SessionList(sessions=tuple(s.info() for s in made)), 201)

    @app.get("/v1/sessions/{id}/state", tags=["sessions"], response_model=api.State)
    async def state(id: SessionId, manager: AManager, tenant: ATenant) -> Response:
        """The live variables; while code runs, as of the end of the execution before."""
        return answers.value(api.State(variables=await manager.find(tenant, id).variables()))


def _execution_routes(app: FastAPI) -> None:
    events: dict[int | str, dict[str, Any]] = {
        200: {"content": {api.EVENTS: {}}, "description": "The result, or events where they are asked for."}
    }

    @app.post("/v1/sessions/{id}/execute", tags=["executions"], response_model=api.Executed, responses=events)
    async def execute(
        asked: api.Execute, id: SessionId, request: Request, manager: AManager, tenant: ATenant
    ) -> Response:
        """Run code. With ``Accept: text/event-stream`` its events while it runs, else its result.

        Who asked for the result and goes away stops the code; who asked for events may come back.
        """
        session = manager.find(tenant, id)
        execution = session.execute(asked.code, asked.timeout, asked.execution, asked.ask)
        if api.EVENTS in request.headers.get("accept", ""):
            return answers.Events(execution, 0, manager.options.request)
        await answers.result(session, execution, request)
        return answers.executed(execution)

    @app.get("/v1/sessions/{id}/executions/{execution}/events", tags=["executions"],
             response_class=Response, responses={200: {"content": {api.EVENTS: {}}}})  # fmt: skip
    async def follow(
        id: SessionId, execution: SessionId, request: Request, manager: AManager, tenant: ATenant,
        after: Annotated[int | None, Query(ge=0, lt=1 << 53)] = None,
    ) -> Response:  # fmt: skip
        """The events of an execution after a number: ``after``, or the header ``Last-Event-ID``."""
        found = manager.find(tenant, id).find(execution)
        header = request.headers.get("last-event-id", "")
        last = int(header) if header.isascii() and header.isdecimal() and len(header) < 16 else 0
        return answers.Events(found, min(last if after is None else after, found.last), manager.options.request)

    @app.post("/v1/sessions/{id}/interrupt", tags=["executions"], response_model=api.Interrupted)
    async def interrupt(
        id: SessionId, manager: AManager, tenant: ATenant, asked: api.Interrupt | None = None
    ) -> Response:
        """Stop the code that runs, keep the state. Does nothing where nothing runs."""
        session = manager.find(tenant, id)
        return answers.value(api.Interrupted(interrupted=await session.interrupt(asked.execution if asked else None)))

    @app.get("/v1/sessions/{id}/calls", tags=["calls"], response_model=api.Calls)
    async def calls(
        id: SessionId, manager: AManager, tenant: ATenant, wait: Annotated[float, Query(ge=0, le=30)] = 0
    ) -> Response:
        """Calls of host tools that wait for an answer; up to ``wait`` seconds for the first one."""
        session = manager.find(tenant, id)
        return answers.value(api.Calls(calls=await session.wait_for_calls(wait)))

    @app.post("/v1/sessions/{id}/calls/{call}", tags=["calls"], status_code=204)
    async def answer(asked: api.Answer, id: SessionId, call: SessionId, manager: AManager, tenant: ATenant) -> None:
        """Answer a call: the code that waits for it goes on."""
        manager.find(tenant, id).answer(call, asked)
