"""What becomes of the requests of one engine, told to its metrics, to traces and to the record of
calls.
"""

import threading
import time
from collections.abc import Callable

from penstock_runtime.errors import PenstockError
from penstock_runtime.llm.answers import mean_gap_ns
from penstock_runtime.llm.calls import CallRecord, Calls
from penstock_runtime.llm.generation import Choice, Generation
from penstock_runtime.llm.roster import BatcherStats
from penstock_runtime.llm.step import StepPlan
from penstock_runtime.observability.engine_metrics import EngineState, EngineTally


class EngineWatcher:
    """Counts what an engine does; `calls` is where requests are recorded, if they are."""

    def __init__(
        self,
        tally: EngineTally,
        calls: Calls | None = None,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._tally = tally
        self._calls = calls
        self._clock = clock
        self._lock = threading.Lock()
        self._model = tally.labels["model_name"]
        self._version = tally.labels["version"]

    # -- what the engine tells ---------------------------------------------------------------------

    def stepped(self, plan: StepPlan, spent_ns: int, accepted: int) -> None:
        """A step was computed."""
        drafted = [row.drafts for row in plan.rows if row.drafts]
        self._tally.count(
            compute_seconds=spent_ns,
            spec_decode_num_drafts=len(drafted),
            spec_decode_num_draft_tokens=sum(drafted),
            spec_decode_num_accepted_tokens=accepted,
        )
        self._tally.observe(iteration_tokens_total=plan.n_tokens)

    def refused(self) -> None:
        """A request was refused when it came."""
        self._tally.count(admission_rejections=1)
        self._tally.on_end()

    # -- what the scribe tells ---------------------------------------------------------------------

    def tokens(self, choice: Choice, count: int, now: int) -> None:
        """A choice got so many tokens."""
        self._tally.count(generation_tokens=count)
        if choice.last_ns:
            self._tally.gap(now - choice.last_ns, count)
        elif not choice.generation.first_ns:
            self._tally.observe(time_to_first_token_seconds=now - choice.generation.arrived_ns)

    def ended(self, generation: Generation, error: PenstockError | None) -> None:
        """A request has its last answer, or nobody waits for one."""
        with self._lock:
            if generation.accounted:
                return
            generation.accounted = True
        now = self._clock()
        self._count(generation, now)
        if self._calls is not None:
            self._calls.append(self._record(generation, error, now))

    def trace(self, generation: Generation) -> None:
        """Say in the request's trace what it was, in OpenTelemetry's words for generative AI."""
        trace = generation.task.request.trace
        if trace is None:
            return
        params = generation.ask.params
        chat = generation.ask.chat is not None
        trace.attributes |= {
            "gen_ai.operation.name": "chat" if chat else "text_completion",
            "gen_ai.provider.name": "penstock",
            "gen_ai.request.model": self._model,
            "gen_ai.response.model": self._model,
            "gen_ai.response.id": generation.task.request.id,
            "gen_ai.response.finish_reasons": tuple(_reasons(generation)),
            "gen_ai.request.temperature": params.temperature,
            "gen_ai.request.top_p": params.top_p,
            "gen_ai.request.top_k": params.top_k,
            "gen_ai.usage.input_tokens": generation.n_prompt,
            "gen_ai.usage.output_tokens": _output_tokens(generation),
            "gen_ai.usage.cache_read.input_tokens": _cached(generation),
            "penstock.time_to_first_token_s": _since(generation, generation.first_ns) / 1e9,
        }
        for choice in generation.choices[:1]:
            trace.attributes["gen_ai.request.max_tokens"] = choice.sequence.max_tokens

    # -- one request -------------------------------------------------------------------------------

    def _count(self, generation: Generation, now: int) -> None:
        tally, first, planned = self._tally, generation.first_ns, generation.planned_ns
        last = max((c.last_ns for c in generation.choices), default=0)
        tally.count(prompt_tokens=generation.n_prompt, prompt_tokens_cached=_cached(generation))
        tally.observe(
            e2e_request_latency_seconds=now - generation.arrived_ns,
            request_prompt_tokens=generation.n_prompt,
            request_generation_tokens=_output_tokens(generation),
            request_params_n=generation.ask.params.n,
            request_num_preemptions=sum(s.preemptions for s in generation.sequences),
        )
        for choice in generation.choices:
            tally.observe(request_params_max_tokens=choice.sequence.max_tokens)
            tally.finished(choice.finish_reason or "abort")
        if planned and first:
            tally.observe(
                request_queue_time_seconds=planned - generation.arrived_ns,
                request_prefill_time_seconds=first - planned,
                request_decode_time_seconds=last - first,
                request_inference_time_seconds=last - planned,
                request_time_per_output_token_seconds=mean_gap_ns(generation),
            )

    def _record(self, generation: Generation, error: PenstockError | None, now: int) -> CallRecord:
        status = error.status.value if error is not None else "OK"
        if error is None and not generation.ended:
            # Whoever keeps the time has told the caller.
            deadline = generation.task.request.deadline_ns
            late = deadline is not None and now >= deadline
            status = "DEADLINE_EXCEEDED" if late else "CANCELLED"
        return CallRecord(
            time_ns=time.time_ns() - (now - generation.arrived_ns),
            model=self._model,
            version=self._version,
            id=generation.task.request.id,
            tenant=next((s.tenant for s in generation.sequences), ""),
            prompt_tokens=generation.n_prompt,
            output_tokens=_output_tokens(generation),
            cached_tokens=_cached(generation),
            finish_reason=",".join(_reasons(generation)),
            status=status,
            error=error.message if error is not None else "",
            ttft_ms=_ms(_since(generation, generation.first_ns)),
            itl_mean_ms=_ms(mean_gap_ns(generation)),
            queue_ms=_ms(_since(generation, generation.planned_ns)),
            total_ms=_ms(now - generation.arrived_ns),
            parameters=generation.ask.params.told(),
            prompt="\n".join(generation.prompts),
            answer="\n".join(choice.whole_text for choice in generation.choices),
        )


def state_of(stats: BatcherStats) -> EngineState:
    """An engine's state as its metrics tell it."""
    used = stats.n_blocks - stats.free_blocks
    return EngineState(
        stats.running,
        stats.waiting,
        used / stats.n_blocks if stats.n_blocks else 0.0,
        stats.prefix_queries,
        stats.prefix_hits,
        stats.preemptions,
    )


def _reasons(generation: Generation) -> list[str]:
    return [choice.finish_reason or "abort" for choice in generation.choices]


def _output_tokens(generation: Generation) -> int:
    return sum(choice.n_tokens for choice in generation.choices)


def _cached(generation: Generation) -> int:
    firsts = generation.choices[:: generation.ask.params.n]
    return sum(choice.sequence.cached_tokens for choice in firsts)


def _since(generation: Generation, at: int) -> int:
    return max(at - generation.arrived_ns, 0) if at else 0


def _ms(ns: int) -> float | None:
    return ns / 1e6 if ns else None
