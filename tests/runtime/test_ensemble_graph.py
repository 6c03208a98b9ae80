"""Laws of what an ensemble may be made of: every mistake is found when it is loaded, and named."""

from dataclasses import replace
from typing import Any

import pytest
from tests.runtime.ensembles import INT, Part, Whole, changed

from penstock_runtime.config import ModelConfig, ModelInput, ModelOutput, Warmup
from penstock_runtime.config_check import problems
from penstock_runtime.config_check_ensemble import circle, composing_problems
from penstock_runtime.config_scheduling import EnsembleStep
from penstock_runtime.datatype import DataType
from penstock_runtime.errors import InvalidArgument
from penstock_runtime.scheduling.ensemble_graph import EnsembleGraph

CHAIN = Whole(("in",), ("out",), (Part(("in",), ("mid",)), Part(("mid",), ("out",))))


def between(whole: Whole, models: list[ModelConfig], **fields: Any) -> dict[str, str]:
    """The problems between an ensemble with other fields and these models."""
    found = list(composing_problems(replace(whole.config, **fields), models))
    assert all(problem.fix for problem in found)
    return {problem.field: problem.message for problem in found}


def alone(whole: Whole, **fields: Any) -> dict[tuple[str, str], str]:
    """The problems of an ensemble with other fields, by severity and field."""
    found = problems(replace(whole.config, **fields))
    return {(problem.severity, problem.field): problem.message for problem in found}


def test_a_sound_ensemble_has_no_problems() -> None:
    """Neither alone nor with its models."""
    assert alone(CHAIN) == {}
    assert between(CHAIN, list(CHAIN.composing)) == {}


@pytest.mark.parametrize(
    ("index", "fields", "field", "message"),
    [
        (
            1,
            {"input": (ModelInput("other", INT, (1,)),)},
            'ensemble_scheduling.step[1].input_map["I0"]',
            "'I0' is no input of the model",
        ),
        (
            1,
            {"input": (ModelInput("other", INT, (1,)),)},
            "ensemble_scheduling.step[1].input_map",
            "misses the inputs ['other'] of model 'm1'",
        ),
        (
            0,
            {"output": (ModelOutput("other", INT, (1,)),)},
            'ensemble_scheduling.step[0].output_map["O0"]',
            "'O0' is no output of the model",
        ),
        (
            1,
            {"input": (ModelInput("I0", DataType.FP32, (1,)),)},
            'ensemble_scheduling.step[1].input_map["I0"]',
            "inconsistent data type: the tensor 'mid' is TYPE_INT64 for step 0 'm0' and TYPE_FP32 "
            "for step 1 'm1'",
        ),
        (
            0,
            {"input": (ModelInput("I0", INT, (2,)),)},
            'ensemble_scheduling.step[0].input_map["I0"]',
            "inconsistent shape: the tensor 'in' is [1] for the ensemble and [2] for step 0 'm0', "
            "with the batch dimension where there is one",
        ),
        (
            1,
            {"output": (ModelOutput("O0", INT, (2,)),)},
            "output[0]",
            "inconsistent shape: the tensor 'out' is [2] for step 1 and [1] for the ensemble, "
            "with the batch dimension where there is one",
        ),
        (
            1,
            {"max_batch_size": 4},
            'ensemble_scheduling.step[1].input_map["I0"]',
            "inconsistent shape: the tensor 'mid' is [1] for step 0 'm0' and [-1,1] for step 1 "
            "'m1', with the batch dimension where there is one",
        ),
    ],
)
def test_a_model_that_does_not_fit_its_step_is_named(
    index: int, fields: dict[str, Any], field: str, message: str
) -> None:
    """Names, datatypes and shapes on both sides of each tensor, and how each side sees it."""
    assert between(CHAIN, changed(CHAIN, index, **fields))[field] == message


def test_an_ensemble_may_not_take_larger_batches_than_its_models() -> None:
    """Triton's text; a model that does not batch sees the batch as a dimension."""
    batching = [replace(model, max_batch_size=4) for model in CHAIN.composing]
    whole = [
        replace(
            model,
            input=(ModelInput("I0", INT, (-1, 1)),),
            output=(ModelOutput("O0", INT, (-1, 1)),),
        )
        for model in CHAIN.composing
    ]

    refused = composing_problems(replace(CHAIN.config, max_batch_size=8), batching)

    assert [problem.message for problem in refused] == [
        "ensemble 'e' allows maximum batch size 8, but it contains model "
        f"'{name}' which only allows maximum batch size to be 4"
        for name in ("m0", "m1")
    ]
    assert between(CHAIN, batching, max_batch_size=4) == {}
    assert between(CHAIN, whole, max_batch_size=8) == {}


def test_a_dimension_that_one_side_leaves_open_fits() -> None:
    """Whether the sizes agree shows when a request is there."""
    open_ = changed(CHAIN, 1, input=(ModelInput("I0", INT, (-1,)),))

    assert between(CHAIN, open_) == {}


def test_an_optional_input_must_be_optional_for_its_step() -> None:
    """Or a request without it could not be executed."""
    inputs = (ModelInput("in", INT, (1,), optional=True),)
    also = changed(CHAIN, 0, input=(ModelInput("I0", INT, (1,), optional=True),))

    refused = between(CHAIN, list(CHAIN.composing), input=inputs)

    field = 'ensemble_scheduling.step[0].input_map["I0"]'
    assert refused == {field: "the tensor 'in' is optional, but step 0 'm0' always needs it"}
    assert between(CHAIN, also, input=inputs) == {}


def test_that_an_ensemble_is_decoupled_should_be_written_down() -> None:
    """A warning: it is served so whatever the text says."""
    whole = Whole(("in",), ("out",), (Part(("in",), ("out",), 2),))

    found = between(whole, list(whole.composing))

    text = "is not decoupled, but step 0 is: the ensemble will be served so"
    assert found == {"model_transaction_policy": text}
    assert whole.graph().decoupled
    assert not CHAIN.graph().decoupled


def test_what_the_configuration_alone_shows() -> None:
    """Inputs that nobody reads, inputs as outputs, and what an ensemble does not have."""
    more = (*CHAIN.config.input, ModelInput("idle", INT, (1,)))
    through = (*CHAIN.config.output, ModelOutput("in", INT, (1,)))

    assert alone(CHAIN, input=more) == {
        ("warning", "input[1].name"): "no step reads the tensor 'idle'"
    }
    assert alone(CHAIN, output=through) == {
        ("error", "output[1].name"): "no step makes the tensor 'in'"
    }
    assert alone(CHAIN, backend="python") == {
        ("error", "backend"): "is 'python', but an ensemble is made of other models"
    }
    assert ("error", "model_warmup") in alone(CHAIN, model_warmup=(Warmup(),))


def test_a_graph_refuses_what_the_checks_refuse() -> None:
    """A circle of steps, for one."""
    step = EnsembleStep("m0", input_map={"I0": "mid", "I1": "out"}, output_map={"O0": "mid"})
    ensemble = CHAIN.config.ensemble_scheduling
    assert ensemble is not None
    circular = replace(ensemble, step=(step, ensemble.step[1]))

    with pytest.raises(InvalidArgument, match="wait for each other's outputs"):
        EnsembleGraph(replace(CHAIN.config, ensemble_scheduling=circular), CHAIN.composing)
    with pytest.raises(InvalidArgument, match="is no ensemble"):
        EnsembleGraph(replace(CHAIN.config, platform="", ensemble_scheduling=None), ())


def test_responses_of_different_decoupled_models_are_not_joined() -> None:
    """Nobody could say which goes with which, in a step or in a response."""
    two = (Part(("in",), ("a",), 2), Part(("in",), ("b",), 2))

    with pytest.raises(InvalidArgument) as joined:
        Whole(("in",), ("out",), (*two, Part(("a", "b"), ("out",)))).graph()
    with pytest.raises(InvalidArgument) as answered:
        Whole(("in",), ("a", "b"), two).graph()

    assert joined.value.message == (
        "ensemble 'e': step 2 'm2' reads 'a' and 'b', which come from different decoupled models "
        "(step 0 'm0' and step 1 'm1'): their responses cannot be told which belongs to which"
    )
    assert "the outputs 'a' and 'b'" in answered.value.message


def test_only_outputs_that_are_used_are_asked_for() -> None:
    """None by name where all of them are."""
    parts = (Part(("in",), ("a", "idle")), Part(("a",), ("out", "more")))
    graph = Whole(("in",), ("out", "more"), parts).graph()

    everything, some = graph.plan(()), graph.plan(("more",))

    assert [step.asks for step in everything.steps.values()] == [("O0",), ()]
    assert [step.asks for step in some.steps.values()] == [("O0",), ("O1",)]


def test_memory_is_private_where_one_step_alone_can_have_it() -> None:
    """A model may return the memory that it was given, so what came of a shared tensor is shared
    too.
    """
    parts = (
        Part(("alone",), ("a",)),
        Part(("both",), ("b",)),
        Part(("both",), ("c",)),
        Part(("a",), ("out",)),
        Part(("b", "c"), ("joined",)),
        Part(("joined",), ("last",)),
    )
    whole = Whole(("alone", "both"), ("out", "last"), parts)

    private = whole.graph().plan(()).private

    assert private == {"alone", "a"}


def test_a_circle_of_ensembles_is_found_however_long() -> None:
    """From the ensemble back to itself; a part that occurs twice is no circle."""
    made_of = {"a": ["b", "x"], "b": ["x", "c"], "c": ["d"], "d": ["b"], "e": ["x", "x"]}

    def parts(name: str) -> list[str]:
        return made_of.get(name, [])

    assert circle("b", parts) == ("b", "c", "d", "b")
    assert circle("a", parts) == ()
    assert circle("e", parts) == ()
    assert circle("f", lambda _: ["f"]) == ("f", "f")
