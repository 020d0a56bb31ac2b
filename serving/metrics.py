"""Figures of the server in Prometheus' text form. Names begin with `raft_`; no label holds what a request says."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from jora_engine.generation.compiles import count_compiles
from serving.state import Server


class _Figures:
    """Reads the server whenever it is asked."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def collect(self) -> Iterator[Metric]:
        counts, figures = self._server.counts, self._server.loop.figures()
        ended = CounterMetricFamily("raft_requests_ended", "Requests by how they ended", labels=["end"])
        for end in ("answered", "refused", "aborted"):
            ended.add_metric([end], getattr(counts, end))
        yield CounterMetricFamily("raft_requests_received", "Requests that came in", value=counts.received)
        yield ended
        yield CounterMetricFamily("raft_prompt_tokens", "Tokens of answered prompts", value=counts.prompt_tokens)
        yield CounterMetricFamily("raft_generated_tokens", "Tokens of answers", value=counts.completion_tokens)
        yield CounterMetricFamily("raft_compiled_programs", "Programs compiled since the start", value=count_compiles())
        yield GaugeMetricFamily("raft_requests_running", "Rows in use", value=figures["running"])
        yield GaugeMetricFamily("raft_requests_waiting", "Requests that wait for a row", value=figures["waiting"])
        searching = self._server.searching
        yield GaugeMetricFamily(
            "raft_requests_searching", "Requests that wait for passages or vectors", value=searching
        )
        yield GaugeMetricFamily("raft_cache_columns", "Columns of the key/value cache", value=figures["columns"])
        slots, adapters, prefixes = figures["slots"], figures["adapters"], figures["prefixes"]
        yield GaugeMetricFamily("raft_adapter_slots_used", "Slots that rows use", value=slots["used"])
        yield GaugeMetricFamily("raft_adapter_slots_held", "Slots that hold an adapter", value=slots["held"])
        yield GaugeMetricFamily("raft_adapters_in_memory", "Adapters in memory", value=adapters.get("in_memory", 0))
        yield GaugeMetricFamily("raft_adapters_broken", "Adapters refused", value=len(adapters.get("broken", ())))
        gateway = self._server.gateway
        yield CounterMetricFamily(
            "raft_promotions", "Versions that came into use since the start", value=gateway.versions.switches
        )
        labels = ["adapter", "version"]
        uses = GaugeMetricFamily("raft_version_in_use", "1 for the version that a name means", labels=labels)
        words = "1 for a promoted version that cannot be used, while the one before serves on"
        refused = GaugeMetricFamily("raft_version_refused", words, labels=labels)
        for name in gateway.domains:
            standing = gateway.standing(name)
            for family, key in ((uses, "version"), (refused, "refused")):
                if key in standing:
                    family.add_metric([name, standing[key]], 1)
        yield uses
        yield refused
        if "remote" in figures:
            there = GaugeMetricFamily(
                "raft_remote_adapter", "1 for the state of an adapter on the other server", labels=["adapter", "state"]
            )
            for name, one in figures["remote"].items():
                there.add_metric([name, one["state"]], 1)
            yield there
        yield GaugeMetricFamily("raft_prefix_bytes", "Bytes of cached prompt chunks", value=prefixes.get("bytes", 0))
        for name, key in (("queried", "asked_tokens"), ("hit", "hit_tokens")):
            words = f"Prompt tokens {'looked up in' if name == 'queried' else 'taken from'} the prefix cache"
            yield CounterMetricFamily(f"raft_prefix_tokens_{name}", words, value=prefixes.get(key, 0))


def exposition(server: Server) -> bytes:
    """All figures as Prometheus reads them."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Figures(server))
    return generate_latest(registry)
