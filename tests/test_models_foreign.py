"""Models as strangers saved them: quantised, with code of their own, for another purpose, damaged, in GGUF."""

from __future__ import annotations

import ast
import io
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from commands.check_models import unfit_models
from commands.convert import convert
from distill.models.loading import load_model, rehearse
from distill.preflight.models import loading_findings
from distill.project.errors import ModelError
from distill.project.foreign import in_words
from distill.project.references import ModelReference, Reference
from distill.text.settings import PromptSettings
from distill.text.tokenizers import learn_bpe, load_tokenizer
from tests.import_closure import ROOT, python_files
from tests.tiny_models import tiny_model

HERE = Reference(path="model")
IDS = torch.arange(1, 9)[None]
Weights = dict[str, Tensor]


@pytest.fixture(autouse=True)
def _a_sound_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tiny_model("llama", vocabulary=280, dtype=torch.float32).save_pretrained("model")
    learn_bpe(["A few words, and a few more."], 270).save_pretrained("model")


def unfit(path: str) -> list[str]:
    """What `commands.check` says of a model there."""
    prompt = PromptSettings(
        with_input="{instruction}{input}", without_input="{instruction}", max_prompt_tokens=9, max_response_tokens=9
    )
    return unfit_models({"here": ModelReference(path=path)}, None, prompt)


def configured(**changes: Any) -> Callable[[], None]:
    def change() -> None:
        path = Path("model/config.json")
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return change


def reweighted(change: Callable[[Weights], None]) -> Callable[[], None]:
    def write() -> None:
        weights = load_file("model/model.safetensors")
        change(weights)
        save_file(weights, "model/model.safetensors", {"format": "pt"})

    return write


def put(name: str, values: Tensor) -> Callable[[], None]:
    return reweighted(lambda weights: weights.update({name: values}))


def packed(weights: Weights) -> None:
    weights |= {name: values.to(torch.float8_e4m3fn) for name, values in weights.items() if values.ndim == 2}


def file(name: str, content: str) -> Callable[[], None]:
    def write() -> None:
        Path("model", name).write_text(content)

    return write


CODE = {"AutoConfig": "odd.Config", "AutoModelForCausalLM": "odd.Model"}
REFUSED = [
    (
        configured(quantization_config={"quant_method": "gptq", "bits": 4}),
        r"quantised \(gptq\), which",
    ),
    (configured(quantization_config={"bits": 4}), r"quantised \(unnamed\), which"),
    (configured(quantization_config={"quant_method": "of 2030"}), "take the model's unquantised weights"),
    (
        configured(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "unquantised weights|not as in an ordinary model",
    ),
    (reweighted(packed), "holds quantised weights, and its config.json has no `quantization_config`"),
    (configured(model_type="odd", auto_map=CODE), "Python code of its own .* never run here; take a version"),
    (configured(model_type="odd"), "model type `odd`.*check the name"),
    (configured(architectures=["LlamaForSequenceClassification"]), "saved as LlamaForSequenceClassification"),
    (configured(architectures=["LlamaModel"]), "is no language model: it was saved as LlamaModel"),
    (file("modules.json", "[]"), "it embeds sentences"),
    (file("adapter_config.json", "{}"), "name both: `adapter: model` beside"),
    (put("score.weight", torch.ones(1, 16)), r"more than a language model: 1 tensors .*\(score.weight"),
    (put("model.layers.2.mlp.up_proj.weight", torch.ones(32, 16)), "is not the model that its config.json describes"),
    (put("model.layers.0.self_attn.q_proj.bias", torch.ones(16)), "is not the model that its config.json describes"),
    (configured(num_attention_heads=0), "cannot load the model model .*check the name"),
    (configured(hidden_size="wide"), "cannot load the model model .*check the name"),
    (file("config.json", "[" * 100_000), "cannot load the model model .*check the name"),
    (file("model.safetensors", "<html>"), "stored as safetensors"),
    (file("model.safetensors", "version https://git-lfs.github.com/spec/v1\n"), "fetch them by `git lfs pull` there"),
]


@pytest.mark.parametrize(("break_it", "said"), REFUSED)
def test_a_model_that_cannot_be_used_is_refused_alike_everywhere(break_it: Callable[[], None], said: str) -> None:
    break_it()
    with pytest.raises(ModelError, match=said) as by_stage:
        load_model(HERE)
    with pytest.raises(ModelError, match=said):
        rehearse(HERE)
    (fault,) = unfit("model")
    (finding,) = loading_findings({"student": HERE}, {})
    assert finding.level == "stop"
    if fault != f"here: {by_stage.value}":  # its tokenizer, which is read first, cannot be loaded either
        assert fault.startswith("here: cannot load the tokenizer model")


def test_what_old_versions_saved_beside_the_weights_is_no_fault() -> None:
    before = load_model(HERE)(input_ids=IDS).logits
    put("model.layers.0.self_attn.bias", torch.ones(1, 1, 8, 8))()
    put("model.layers.0.self_attn.masked_bias", torch.tensor(-1e4))()
    put("model.layers.0.self_attn.rotary_emb.inv_freq", torch.ones(2))()
    assert torch.equal(load_model(HERE)(input_ids=IDS).logits, before)
    assert unfit("model") == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(value: float) -> None:
    put("model.layers.1.mlp.up_proj.weight", torch.full((32, 16), value))()
    with pytest.raises(ModelError, match=r"no finite numbers in 1 tensors \(model.layers.1.mlp.up_proj.weight"):
        load_model(HERE)


def test_a_quantised_model_is_unpacked_to_plain_weights() -> None:
    """FP8 in blocks, as DeepSeek's: the library multiplies each block by its scale."""
    plain = load_file("model/model.safetensors")

    def quantise(weights: Weights) -> None:
        for name in [name for name in weights if ".mlp." in name or ".self_attn." in name]:
            weights[name] = (weights[name] / 0.25).to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = torch.full((1, 1), 0.25)

    reweighted(quantise)()
    configured(quantization_config={"quant_method": "fp8", "weight_block_size": [128, 128]})()
    rehearse(HERE)
    model = load_model(HERE)
    for name, values in model.named_parameters():
        assert values.dtype == torch.float32
        torch.testing.assert_close(values, plain[name], rtol=0.07, atol=1e-2)
    model.save_pretrained("again")
    assert "quantization_config" not in json.loads(Path("again/config.json").read_text())
    assert torch.equal(load_model(Path("again"))(input_ids=IDS).logits, model(input_ids=IDS).logits)


def test_the_language_model_alone_of_one_with_another_head() -> None:
    before = load_model(HERE)(input_ids=IDS).logits
    put("v_head.summary.weight", torch.ones(1, 16))()
    file("README.md", "---\nlicense: mit\nbase_model: some/one\n---\n")()
    convert("model", Path("alone"), "float32", alone=True)
    assert torch.equal(load_model(Path("alone"))(input_ids=IDS).logits, before)
    card = Path("alone/README.md").read_text()
    assert "license: mit" in card and "base_model: some/one" in card


# --- code of its own ----------------------------------------------------------------------------------------------


def test_code_that_comes_with_a_model_is_never_run_whatever_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    file("odd.py", "from pathlib import Path\nPath('ran').write_text('')\nraise SystemExit\n")()
    settings = json.loads(Path("model/tokenizer_config.json").read_text())
    own = {"tokenizer_class": "OddTokenizer", "auto_map": {"AutoTokenizer": ["odd.OddTokenizer", None]}}
    file("tokenizer_config.json", json.dumps({**settings, **own}))()
    configured(model_type="odd", auto_map=CODE)()
    asked: list[object] = []

    def answer(*words: object) -> str:
        asked.append(words)
        return "y"

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n" * 100))
    for read in (load_model, rehearse, load_tokenizer):
        with pytest.raises(ModelError, match="Python code of its own"):
            read(HERE)
    assert len(unfit("model")) == 1
    assert not asked and not Path("ran").exists()


def test_every_loading_says_that_no_code_is_trusted() -> None:
    loadings, silent = 0, []
    folders = ("distill", "stages", "commands", "benchmarks")
    for path in sorted(file for folder in folders for file in python_files(Path(folder), ROOT)):
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            name = ast.unparse(node.func)
            if name.startswith("Auto") and name.endswith(".from_pretrained"):
                loadings += 1
                said = [word.value for word in node.keywords if word.arg == "trust_remote_code"]
                if not (said and isinstance(said[0], ast.Constant) and said[0].value is False):
                    silent.append(f"{path}:{node.lineno} {name}")
    assert loadings, "nothing was looked at"
    assert not silent, f"write trust_remote_code=False there: {silent}"


# --- words --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [KeyError("x"), RecursionError("deep"), ImportError("no x"), AttributeError("y")])
def test_whatever_a_library_raises_is_one_sentence(error: Exception) -> None:
    with pytest.raises(ModelError, match=r"cannot read it .*; mend it$"), in_words("cannot read it", "mend it"):
        raise error


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), MemoryError(), torch.OutOfMemoryError("full"), RuntimeError("std::bad_alloc")]
)
def test_a_stop_and_a_lack_of_memory_are_what_they_are(error: BaseException) -> None:
    with pytest.raises(type(error)), in_words("cannot read it", "mend it"):
        raise error


def test_a_long_message_is_cut_before_the_fix() -> None:
    with pytest.raises(ModelError, match=r"word …\); mend it$"), in_words("cannot read it", "mend it"):
        raise ValueError("word " * 500)


# --- GGUF ---------------------------------------------------------------------------------------------------------


def test_a_gguf_is_named_with_the_command_that_converts_it() -> None:
    shutil.rmtree("model")
    Path("model").mkdir()
    Path("model/mine.gguf").write_bytes(b"GGUF, and then some")
    for place, read in [(p, r) for p in ("model", "model/mine.gguf") for r in (load_model, load_tokenizer)]:
        with pytest.raises(ModelError, match=r"in GGUF.*: python -m commands.convert model/mine.gguf mine$"):
            read(Reference(path=place))
    (fault,) = unfit("model/mine.gguf")
    assert fault.endswith("python -m commands.convert model/mine.gguf mine")


def test_a_gguf_becomes_an_ordinary_folder() -> None:
    gguf = pytest.importorskip("gguf")
    source = AutoModelForCausalLM.from_pretrained("model", trust_remote_code=False)
    write_gguf(gguf, Path("mine.gguf"), source.state_dict())
    convert("mine.gguf", Path("plain"), "float32")
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in Path("plain").iterdir()}
    assert "quantization_config" not in json.loads(Path("plain/config.json").read_text())
    assert "license: mit" in Path("plain/README.md").read_text()
    assert AutoTokenizer.from_pretrained("plain", trust_remote_code=False).chat_template == "{{ messages }}"
    for name, values in load_model(Path("plain")).named_parameters():
        torch.testing.assert_close(values, source.state_dict()[name], rtol=1e-6, atol=1e-6, msg=name)


def write_gguf(gguf: Any, path: Path, weights: Weights) -> None:
    """The model of this file's fixture in llama.cpp's format and names, in float32."""
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("Mine")
    out.add_license("mit")
    for name, value in {
        "block_count": 2,
        "context_length": 64,
        "embedding_length": 16,
        "feed_forward_length": 32,
        "head_count": 4,
        "head_count_kv": 2,
        "vocab_size": 280,
    }.items():
        getattr(out, f"add_{name}")(value)
    out.add_layer_norm_rms_eps(1e-6)
    out.add_rope_freq_base(10000.0)
    tokens = json.loads(Path("model/tokenizer.json").read_text())["model"]
    names = sorted(tokens["vocab"], key=tokens["vocab"].get)
    names += [f"<spare {i}>" for i in range(280 - len(names))]
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("gpt-2")
    out.add_token_list(names)
    out.add_token_types([3] + [1] * 279)
    out.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokens["merges"]])
    for kind in ("bos", "eos", "pad"):
        getattr(out, f"add_{kind}_token_id")(0)
    out.add_chat_template("{{ messages }}")
    parts = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output"}
    parts |= {f"self_attn.{each}_proj": f"attn_{each}" for each in "qkv"}
    parts |= {f"mlp.{each}_proj": f"ffn_{each}" for each in ("gate", "up", "down")}
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    for name, values in weights.items():
        stem = name.removesuffix(".weight")
        if stem in whole:
            place = whole[stem]
        else:
            _, _, number, part = stem.split(".", 3)
            place = f"blk.{number}.{parts[part]}"
            if part in ("self_attn.q_proj", "self_attn.k_proj"):  # llama.cpp rotates neighbours, not halves
                heads = 4 if part.endswith("q_proj") else 2
                values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        out.add_tensor(f"{place}.weight", values.contiguous().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
