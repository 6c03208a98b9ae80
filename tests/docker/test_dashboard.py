"""Every query of the dashboard and of the rules asks for what a server really tells."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import promql_parser
import pytest
import yaml
from tests.docker.dockerfile import ROOT
from tests.fake_nvml import FakeNvml

from penstock.describe_instances import Instance
from penstock.logs import configure
from penstock.metrics import server_metrics
from penstock.observer import rpc_metrics
from penstock_runtime.errors import FailureReason
from penstock_runtime.observability.engine_metrics import EngineBook, EngineTally
from penstock_runtime.observability.gpu_metrics import GpuMetrics, Nvml
from penstock_runtime.observability.statistics import ModelStatistics, RequestTiming
from penstock_runtime.repository.lifecycle import ModelIndexEntry, ModelState
from penstock_runtime.scheduling.base import QueueStats
from penstock_runtime.scheduling.queue_report import QueueLevel, QueueReport

DASHBOARD: dict[str, Any] = json.loads((ROOT / "docker" / "grafana.json").read_text())
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "docker" / "rules.yml").read_text())["groups"]

# What Prometheus itself adds to every series.
ADDED_LABELS = {"instance", "job"}


@dataclass
class BusyModel:
    """A decoupled model that had traffic."""

    statistics: ModelStatistics
    instances: tuple[Instance, ...] = ()

    def queue_stats(self) -> QueueStats:
        return QueueStats(1, 2, 3)

    @property
    def labels(self) -> Mapping[str, str]:
        return {"model": self.statistics.model, "version": str(self.statistics.version)}

    def queue_report(self) -> QueueReport:
        return QueueReport((QueueLevel(1, 2, 3, 4, 5),))


class BusyRepository:
    """One model that had a batch, a failure and a stream."""

    def models(self) -> Sequence[BusyModel]:
        statistics = ModelStatistics("m", 1, decoupled=True)
        statistics.record_batch(2, [RequestTiming(9000, 100), RequestTiming(9000, 100)], 1, 2, 3)
        statistics.record_failure(FailureReason.BACKEND, 10)
        statistics.record_response(0, 1, 1, "success", first_ns=500)
        statistics.set_memory({"cpu": 100})
        return [BusyModel(statistics)]

    def index(self, ready_only: bool) -> Sequence[ModelIndexEntry]:
        return [ModelIndexEntry("m", "1", ModelState.READY)]


@pytest.fixture(scope="module")
def told() -> dict[str, set[str]]:
    """Label names per series name, of a server that had traffic on a machine with GPUs."""
    calls = rpc_metrics()
    for path in ("/inference.GRPCInferenceService/ModelInfer", "/unknown"):
        calls.started(path)
        calls.handled(path, "OK", 0.01)
    logs = configure(write=lambda _: None)
    logs.close()
    gpus = GpuMetrics(lambda: Nvml(FakeNvml()))
    engines = EngineBook()
    engines.add(EngineTally("m", 1, "m_0", {}))
    sources = [calls.families, logs.families, gpus.families, engines.families]
    registry = server_metrics(BusyRepository(), sources)
    names: dict[str, set[str]] = {"up": set()}
    for family in registry.collect():
        for sample in family.samples:
            names.setdefault(family.name + sample.suffix, set()).update(sample.labels)
    return names


def expressions() -> Iterator[tuple[str, str]]:
    """Every query, and where it stands."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield f"panel {panel['title']}", target["expr"]
    for group in RULES:
        for rule in group["rules"]:
            yield f"rule {rule['alert']}", rule["expr"]


def parse(expression: str) -> Any:
    """The query, with what Grafana fills in filled in."""
    filled = expression.replace("$__rate_interval", "5m").replace("$model", ".*")
    return promql_parser.parse(filled)


def nodes(expression: Any) -> Iterator[Any]:
    """The expression and all below it."""
    found: list[Any] = []

    def keep(node: Any) -> bool:
        found.append(node)
        return True

    promql_parser.walk(expression, keep)
    yield from found


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_a_query_asks_only_for_series_that_are_told(
    told: dict[str, set[str]], where: str, expression: str
) -> None:
    """Each name is one of a scrape, each label that is matched is one of that name's."""
    selectors = [n for n in nodes(parse(expression)) if hasattr(n, "matchers")]

    assert selectors or "vector(" in expression
    for selector in selectors:
        assert selector.name in told, f"{where}: {selector.name} is told by no server"
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= told[selector.name] | ADDED_LABELS, where


@pytest.mark.parametrize(("where", "expression"), list(expressions()))
def test_a_query_groups_only_by_labels_that_are_told(
    told: dict[str, set[str]], where: str, expression: str
) -> None:
    """Grouping by a label that no series has would silently put everything together."""
    for node in nodes(parse(expression)):
        if not isinstance(node, promql_parser.AggregateExpr) or node.modifier is None:
            continue
        labels = set.union(
            *(told[n.name] for n in nodes(node) if hasattr(n, "matchers")), ADDED_LABELS
        )
        assert set(node.modifier.labels) <= labels, where


def test_the_dashboard_shows_every_family_of_the_server_itself(told: dict[str, set[str]]) -> None:
    """What penstock tells of its own accord is looked at by someone."""
    asked = {
        node.name
        for _, expression in expressions()
        for node in nodes(parse(expression))
        if hasattr(node, "matchers")
    }
    own = {
        name.removesuffix("_bucket").removesuffix("_sum").removesuffix("_count")
        for name in told
        # Families that vLLM has too are there for the boards that are made for those.
        if name.startswith("penstock_") and not name.startswith("penstock_llm_")
    }

    shown = {name.removesuffix("_bucket").removesuffix("_sum") for name in asked}
    assert own - shown - {"penstock_build_info", "penstock_metrics_source_errors_total"} == set()


def test_legends_speak_of_labels_that_the_query_keeps() -> None:
    """A legend of a label that was summed away would be empty."""
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            tree = parse(target["expr"])
            if not isinstance(tree, promql_parser.AggregateExpr):
                continue
            kept = set(tree.modifier.labels) if tree.modifier else set()
            legend = target["legendFormat"]
            named = {part.partition("}}")[0] for part in legend.split("{{")[1:]}
            assert named <= kept, panel["title"]


def test_every_panel_has_its_own_place_and_name() -> None:
    """Ids are unique, nothing overlaps, nothing is wider than the page."""
    panels = DASHBOARD["panels"]
    places = [panel["gridPos"] for panel in panels]

    assert len({panel["id"] for panel in panels}) == len(panels)
    assert len({panel["title"] for panel in panels}) == len(panels)
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y


def test_every_panel_asks_the_source_that_the_viewer_chose() -> None:
    """The dashboard works in any Grafana: its data source is a variable."""
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}

    assert variables["datasource"]["query"] == "prometheus"
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            assert target["datasource"]["uid"] == "${datasource}"


def test_every_rule_says_what_happened_and_how_bad_it_is() -> None:
    """An alert without words helps no one at night."""
    for group in RULES:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("info", "warning", "critical")
            assert rule["annotations"]["summary"]
