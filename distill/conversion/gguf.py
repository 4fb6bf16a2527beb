"""GGUF files, the format of llama.cpp: read by transformers, with every weight unpacked to a plain number."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from distill.project.errors import ModelError
from distill.project.foreign import in_words
from distill.project.references import gguf_file

_FIX = (
    "install what it names (`pip install gguf` for the format itself), or take the model's safetensors, which most "
    "have on the hub"
)


def load_gguf(path: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model in float32 and its tokenizer, chat template included, of a .gguf file or a folder with one.

    Raises: ModelError, ending with the fix.
    """
    file = gguf_file(path)
    if file is None:
        raise ModelError(f"{path} is no GGUF file and no folder with just one; name the file")
    with in_words(f"cannot read the GGUF file {file}", _FIX):
        tokenizer = AutoTokenizer.from_pretrained(str(file.parent), gguf_file=file.name, trust_remote_code=False)
        loaded = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            gguf_file=file.name,
            dtype="float32",
            trust_remote_code=False,
            output_loading_info=True,
            **_unpacked(),
        )
    model, found = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    if found["missing_keys"] or found["mismatched_keys"]:
        raise ModelError(
            f"{file} lacks {len(found['missing_keys'])} tensors that its architecture needs "
            f"({', '.join(sorted(found['missing_keys'])[:3])}, …); take another conversion of the model"
        )
    return model, tokenizer


def _unpacked() -> dict[str, Any]:
    # Releases before this setting always unpack.
    settings = getattr(transformers, "GgufConfig", None)
    return {} if settings is None else {"quantization_config": settings(dequantize=True)}
