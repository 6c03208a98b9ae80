"""Models that are quantised, and what it costs by perplexity."""

import copy
import sysconfig
import weakref
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("transformers")

import torch
import transformers

from penstock_runtime.errors import FailedPrecondition, InvalidArgument
from penstock_runtime.llm.perplexity import perplexity
from penstock_runtime.llm.quantise import choose, quantise_model
from penstock_runtime.llm.quantised_linear import QuantisedLinear, join
from penstock_runtime.llm.quantised_weight import quantise_weight

TRAINED = Path(__file__).resolve().parent / "tiny_llm"
# Sources that it was not trained on.
HELD_OUT = ("textwrap.py", "shlex.py", "sched.py", "fnmatch.py", "linecache.py", "cmd.py")
SHAPE = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": None,
}
GPT2_SHAPE = {"vocab_size": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64}


def _model(family: str = "Llama", **more: Any) -> Any:
    shape = GPT2_SHAPE if family == "GPT2LMHead" else SHAPE
    name = family.removesuffix("LMHead").removesuffix("ForCausalLM")
    config = getattr(transformers, f"{name}Config")(**{**shape, **more})
    suffix = "Model" if family == "GPT2LMHead" else "ForCausalLM"
    torch.manual_seed(0)
    return getattr(transformers, family + suffix)(config).eval()


def _logits(model: Any) -> torch.Tensor:
    ids = torch.arange(20).unsqueeze(0)
    with torch.inference_mode():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits[0].float()
    return found


@pytest.mark.parametrize("scheme", ["int8", "int4"])
@pytest.mark.parametrize("family", ["Llama", "Phi3", "GPTNeoX", "GPT2LMHead"])
def test_a_quantised_model_is_the_model_with_the_numbers_that_its_weights_stand_for(
    family: str, scheme: str
) -> None:
    model = _model(family)
    bits = int(scheme[-1])
    expected = copy.deepcopy(model)
    names = choose(model)[0]
    for name in names:
        module = expected.get_submodule(name)
        weight = module.weight.data
        turned = type(module).__name__ == "Conv1D"
        weight = weight.t() if turned else weight
        # The first layer is int8 in any case.
        numbers = quantise_weight(weight, 8 if ".0." in name else bits).dequantise()
        module.weight.data = numbers.t() if turned else numbers

    report = quantise_model(model, scheme)

    assert report.layers == len(names) > 0
    assert all(isinstance(model.get_submodule(name), QuantisedLinear) for name in names)
    assert torch.allclose(_logits(model), _logits(expected), atol=1e-5)


def test_every_linear_layer_of_the_decoder_is_quantised_and_the_head_when_asked() -> None:
    model = _model()

    report = quantise_model(model, "int8")

    assert report.layers == 2 * 7
    assert report.skipped == (("lm_head", "it is the head"),)
    assert quantise_model(_model(), "int8", head=True).layers == 2 * 7 + 1


def test_the_report_counts_the_bytes_of_what_was_quantised() -> None:
    model = _model()
    linear = sum(m.weight.nbytes for m in model.model.modules() if isinstance(m, torch.nn.Linear))

    report = quantise_model(model, "int8")

    held = sum(buffer.nbytes for m in model.modules() if isinstance(m, QuantisedLinear)
               for buffer in (m.data, m.scales))  # fmt: skip
    assert report.bytes_before == linear
    assert report.bytes_after == held < linear * 0.27
    assert "14 layers int8" in str(report)


def test_a_weight_is_freed_before_the_next_is_quantised() -> None:
    model = _model()
    names = choose(model)[0]
    weights = [weakref.ref(model.get_submodule(name).weight) for name in names]
    alive: list[int] = []

    def progress(done: int, total: int) -> None:
        alive.append(sum(weight() is not None for weight in weights))
        assert total == len(names)

    quantise_model(model, "int4", progress=progress)

    assert alive == list(reversed(range(len(names))))


def test_small_and_odd_layers_follow_the_rule() -> None:
    model = _model(intermediate_size=80, num_key_value_heads=1)

    report = quantise_model(model, "int4")

    first, layer = model.model.layers
    assert layer.mlp.down_proj.bits == 8
    assert layer.mlp.up_proj.bits == 4
    assert first.mlp.up_proj.bits == 8
    assert ("model.layers.0.self_attn.k_proj", "its weight is 16x64") in report.skipped


def test_whether_a_gpus_kernels_multiply_is_said_once_for_all_layers() -> None:
    """In fused ones too; what is required and cannot be had is refused."""
    model = _model()
    quantise_model(model, "int8", cuda_kernels="off")
    layers = [module for module in model.modules() if isinstance(module, QuantisedLinear)]

    assert {layer.cuda_kernels for layer in layers} == {"off"}
    assert join(layers[:1]).cuda_kernels == "off"
    with pytest.raises(FailedPrecondition, match="cuda_kernels is 'require'"):
        quantise_model(_model(), "int8", cuda_kernels="require")


def test_none_changes_nothing_and_a_scheme_that_is_none_is_refused() -> None:
    model = _model()

    assert quantise_model(model, "none").layers == 0
    assert isinstance(model.model.layers[0].mlp.up_proj, torch.nn.Linear)
    with pytest.raises(InvalidArgument, match="'int3', expected none, int8 or int4"):
        quantise_model(model, "int3")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("scheme", "most"), [("int8", 1.01), ("int4", 1.03)])
def test_a_trained_model_foretells_held_out_text_nearly_as_well(
    scheme: str, most: float, dtype: torch.dtype
) -> None:
    if not TRAINED.is_dir():
        pytest.skip("the trained model is not there")
    tokens = _held_out()
    model = transformers.AutoModelForCausalLM.from_pretrained(TRAINED, dtype=torch.float32).eval()
    before = perplexity(model, tokens, 128)
    model.to(dtype)

    quantise_model(model, scheme)

    assert perplexity(model, tokens, 128) < most * before


def _held_out() -> list[int]:
    from tokenizers import Tokenizer

    library = Path(sysconfig.get_path("stdlib"))
    text = "\n".join((library / name).read_text() for name in HELD_OUT)
    ids: list[int] = Tokenizer.from_file(str(TRAINED / "tokenizer.json")).encode(text).ids
    return ids[:12_000]


def test_the_perplexity_of_a_model_that_knows_nothing_is_its_vocabulary() -> None:
    model = _model()
    model.lm_head.weight.data.zero_()

    assert perplexity(model, list(range(90)), 16) == pytest.approx(96, rel=1e-5)


def test_perplexity_does_not_depend_on_how_windows_are_batched() -> None:
    model = _model()
    tokens = [(7 * place * place + 3) % 96 for place in range(12 * 16 + 5)]
    logits = [_window_loss(model, tokens[at : at + 16]) for at in range(0, 12 * 16, 16)]

    expected = torch.exp(torch.stack(logits).mean()).item()

    assert perplexity(model, tokens, 16) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(InvalidArgument, match="15 tokens are no window of 16"):
        perplexity(model, tokens[:15], 16)


def _window_loss(model: Any, tokens: list[int]) -> torch.Tensor:
    ids = torch.tensor([tokens])
    with torch.inference_mode():
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, ids[0, 1:])
