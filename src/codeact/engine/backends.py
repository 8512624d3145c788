"""Which sandbox a session of the engine is made in: that of its kind, with the limits and the network it may have."""

from __future__ import annotations

from typing import Protocol, cast

from codeact import contracts
from codeact.engine.options import Options
from codeact.errors import UsageError
from codeact.sandbox import Sandbox
from codeact.sandbox.api import NewSession
from codeact.sandbox.limits import Limits
from codeact.sandbox.network import Network, Rule


class Shareable(contracts.Sandbox, Protocol):
    """A sandbox that others of different limits can stand beside, sharing what is dear (a zygote, an image)."""

    def sharing(self, limits: Limits, network: Network) -> contracts.Sandbox: ...


class Backends:
    """``kind`` as ``codeact.sandbox.Sandbox`` takes it. One base for each kernel and kind of network in use."""

    def __init__(self, kind: str, options: Options) -> None:
        self.kind = kind
        self._options = options
        self._offered = Network.of(options.network, options.allow_net, kind)
        self._bases: dict[tuple[bool, str | None], contracts.Sandbox] = {}

    def open(self, asked: NewSession) -> tuple[contracts.Sandbox, Limits]:
        """A sandbox for one session, to be closed with it. Raises UsageError for what cannot be had here."""
        limits = self._limits(asked)
        network = self._network(asked)
        if self.kind == "unsafe-process":
            return Sandbox(self.kind, kernel=asked.kernel, **limits.model_dump()), limits
        name = (network.kind == "host", asked.kernel)
        base = self._bases.get(name)
        if base is None:
            kind_of_network = "host" if name[0] else "none"
            base = self._bases[name] = Sandbox(
                self.kind, kernel=asked.kernel, network=kind_of_network, **self._options.limits.model_dump()
            )
        return cast(Shareable, base).sharing(limits, network), limits

    def _limits(self, asked: NewSession) -> Limits:
        most = self._options.limits
        chosen = most.model_dump()
        for name, limit in chosen.items():
            wanted = getattr(asked, name)
            if wanted is None:
                continue
            bound = self._options.max_timeout if name == "timeout" else limit
            if wanted > bound:
                raise UsageError(f"{name}: this engine gives a session {bound:g} at most, not {wanted:g}")
            chosen[name] = wanted
        return Limits(**chosen)

    def _network(self, asked: NewSession) -> Network:
        """What was asked for, as far as the engine's own network covers it; addresses are the engine's to pin."""
        if asked.network == "host" and self._offered.kind != "host":
            raise UsageError("this engine gives its sessions no network of the host")
        wanted = Network.of(asked.network, asked.allow_net, self.kind)
        if wanted.kind != "names":
            return wanted
        return Network(kind="names", rules=tuple(self._allowed(rule) for rule in wanted.rules))

    def _allowed(self, rule: Rule) -> Rule:
        if rule.address is not None:
            raise UsageError(f"allow_net: {rule}: only who runs the engine gives names an address")
        for offered in self._offered.rules:
            covered = offered.host == rule.host and offered.subdomains == rule.subdomains
            covered = covered or (offered.subdomains and rule.host.endswith(f".{offered.host}"))
            if covered and offered.port in (None, rule.port):
                update = {"address": offered.address, "address_port": offered.address_port}
                return rule.model_copy(update=update)
            if covered and rule.port is None:
                return rule.model_copy(
                    update={"port": offered.port, "address": offered.address, "address_port": offered.address_port}
                )
        raise UsageError(f"allow_net: {rule}: this engine lets no session reach it")

    async def close(self) -> None:
        for base in self._bases.values():
            await base.close()
