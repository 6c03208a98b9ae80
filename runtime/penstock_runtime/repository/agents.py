"""Repository agents: code that looks at a model's folder, or puts another in its place, before the
model is loaded (`model_repository_agents` of its configuration, in Triton's words).

An agent is found by its name: those below, or an entry point of the group
`penstock.repository_agents` of an installed package. Nothing is imported by a path.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from penstock_runtime.backends.base import ModelSource
from penstock_runtime.config import ModelConfig
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.repository.agent_checksum import ChecksumAgent

_log = logging.getLogger("penstock.repository")

GROUP = "penstock.repository_agents"


@dataclass(frozen=True, slots=True)
class AgentRequest:
    """What an agent is asked about: a version of a model, its folder, the agent's own options."""

    model: str
    version: int
    root: Path
    parameters: Mapping[str, str]


class RepositoryAgent(Protocol):
    """Acts before a version is loaded and after it is gone. Called from a loading thread."""

    def load(self, request: AgentRequest) -> Path | None:
        """The model's folder to load from, None for the one that there is. A PenstockError keeps
        the model from being loaded.
        """

    def unloaded(self, request: AgentRequest) -> None:
        """The version is gone, or did not come up after all; what `load` made can go."""


class Lease:
    """A version's folder as the agents left it, until they are told that it is not needed."""

    def __init__(self, source: ModelSource) -> None:
        self.source = source
        self._told: list[tuple[RepositoryAgent, AgentRequest]] = []

    def take(self, agent: RepositoryAgent, parameters: Mapping[str, str]) -> None:
        """Let an agent act on what those before it left."""
        source = self.source
        request = AgentRequest(source.config.name, source.version, source.root, parameters)
        root = agent.load(request)
        self._told.append((agent, request))
        if root is not None:
            directory = root if source.directory == source.root else root / str(source.version)
            self.source = replace(source, root=root, directory=directory)

    def close(self) -> None:
        """Tell the agents, the last one first."""
        told, self._told = self._told, []
        for agent, request in reversed(told):
            try:
                agent.unloaded(request)
            except Exception:
                _log.exception("an agent of model '%s' failed to let go", request.model)


class Agents:
    """The agents of one server."""

    def __init__(self, known: Mapping[str, RepositoryAgent] | None = None) -> None:
        self._known = dict(known) if known is not None else {"checksum": ChecksumAgent()}

    def load(self, source: ModelSource) -> Lease | None:
        """Let the agents that the configuration names act, in their order; None if it names none.

        InvalidArgument for an agent that nobody knows, and what an agent refuses with.
        """
        wanted = agents_of(source.config)
        if not wanted:
            return None
        lease = Lease(source)
        try:
            for name, parameters in wanted:
                lease.take(self._find(source.config.name, name), parameters)
        except BaseException:
            lease.close()
            raise
        return lease

    def _find(self, model: str, name: str) -> RepositoryAgent:
        agent = self._known.get(name)
        if agent is None:
            found = next(iter(entry_points(group=GROUP, name=name)), None)
            if found is None:
                raise InvalidArgument(
                    f"model '{model}' asks for the repository agent '{name[:64]}', expected one of "
                    f"{', '.join(self._names())}"
                )
            agent = self._known[name] = found.load()()
        return agent

    def _names(self) -> list[str]:
        return sorted({*self._known, *(point.name for point in entry_points(group=GROUP))})


def agents_of(config: ModelConfig) -> Sequence[tuple[str, Mapping[str, str]]]:
    """Names and options of the agents that a configuration asks for; it has been checked."""
    block = config.extra.get("model_repository_agents")
    agents = block.get("agents", ()) if isinstance(block, Mapping) else ()
    return [(str(a.get("name", "")), a.get("parameters") or {}) for a in agents]
