"""What the engine counts and measures, for Prometheus. No label holds anything that a client chose."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)


class Metrics:
    """A registry of its own, so that two engines in one process do not mix."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        self.sessions = Gauge("codeact_sessions", "Sessions that live.", registry=registry)
        self.running = Gauge("codeact_executions_running", "Executions that run.", registry=registry)
        self.waiting = Gauge("codeact_executions_waiting", "Executions that wait.", registry=registry)
        self.ended = Counter("codeact_sessions_ended", "Sessions that ended, by cause.", ["cause"], registry=registry)
        self.starts = Counter("codeact_starts", "Sessions started, by outcome.", ["outcome"], registry=registry)
        self.executions = Counter("codeact_executions", "Executions ended, by status.", ["status"], registry=registry)
        self.refusals = Counter("codeact_refusals", "Requests refused, by cause.", ["cause"], registry=registry)
        self.start = self._histogram("codeact_start_seconds", "From the request for a session to its kernel.")
        self.waited = self._histogram("codeact_wait_seconds", "Until an execution had its turn.")
        self.run = self._histogram("codeact_execution_seconds", "While an execution ran.")
        self.requests = Histogram(
            "codeact_request_seconds", "HTTP requests.", ["method", "route", "status"],
            buckets=_SECONDS, registry=registry,
        )  # fmt: skip

    def _histogram(self, name: str, told: str) -> Histogram:
        return Histogram(name, told, buckets=_SECONDS, registry=self.registry)

    def text(self) -> bytes:
        return generate_latest(self.registry)
