"""Convert a GGUF file, or a quantised model, to an ordinary folder that can be trained: plain weights in safetensors.

python -m commands.convert model.gguf models/mine

Tokenizer and chat template come with it. GGUF needs the package `gguf` (`pip install gguf`).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from distill.models.settings import Dtype
from distill.project.errors import SettingsError, run_stage
from distill.project.files import fresh_dir, write_text
from distill.project.references import ModelReference, gguf_file
from distill.project.settings import parse

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def main() -> None:
    """Write the folder, and say what is in it."""
    parser = argparse.ArgumentParser(prog="python -m commands.convert", description=__doc__ and __doc__.splitlines()[0])
    parser.add_argument("source", help="a .gguf file, a folder with one, or a quantised model: folder or id@commit")
    parser.add_argument("folder", type=Path, help="the folder to write")
    parser.add_argument(
        "--language-model-alone", action="store_true", help="leave out another head or part that came with it"
    )
    parser.add_argument("--dtype", choices=get_args(Dtype), default="float32", help="precision of the weights")
    given = parser.parse_args()
    if given.folder.exists() and (not given.folder.is_dir() or any(given.folder.iterdir())):
        raise SettingsError(f"{given.folder} is there already; name a new folder")
    convert(given.source, given.folder, given.dtype, given.language_model_alone)


def convert(source: str, folder: Path, dtype: str, alone: bool = False) -> None:
    """Write `source` as an ordinary folder; `alone` leaves out another head or part.

    Raises: ModelError when it cannot be read.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing is trained here; DeepSpeed would warn that it had to guess
    import torch

    model, tokenizer, card = _read(source, alone)
    torch.nn.Module.to(model, getattr(torch, dtype))
    model.config.dtype = getattr(torch, dtype)
    with fresh_dir(folder) as aside:
        model.save_pretrained(aside)
        tokenizer.save_pretrained(aside)
        write_text(aside / "README.md", card)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    chat = "with" if tokenizer.chat_template else "without"
    print(f"wrote {folder}: {parameters:,} parameters in {dtype}, {len(tokenizer):,} tokens, {chat} a chat template")


def _read(source: str, alone: bool) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, str]:
    """Model, tokenizer and the card of the new folder."""
    file = gguf_file(Path(source))
    if file is not None:
        from distill.conversion.gguf import load_gguf

        model, tokenizer = load_gguf(file)
        return model, tokenizer, _card(file.name, _metadata(file))
    from distill.models.loading import load_model
    from distill.text.tokenizers import load_tokenizer

    reference = parse(source, ModelReference, "source")
    return (
        load_model(reference, alone=alone),
        load_tokenizer(reference.base),
        _card(reference.hub or Path(str(reference.path)).name, _front_matter(reference)),
    )


def _metadata(file: Path) -> dict[str, Any]:
    """What a GGUF file says of its origin, in the words of the hub's cards."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields
    found = {
        "license": "general.license",
        "base_model": "general.base_model.0.repo_url",
        "model_name": "general.name",
        "organization": "general.organization",
        "source": "general.source.url",
    }
    return {name: str(fields[place].contents()) for name, place in found.items() if place in fields}


def _front_matter(reference: ModelReference) -> dict[str, Any]:
    """The licence and the base of a model, by the card beside it."""
    from distill.sharing.ancestry import ancestor_of

    found = ancestor_of(reference)
    return {"license": found.licence, "model_name": found.name, **({"base_model": found.hub} if found.hub else {})}


def _card(origin: str, metadata: dict[str, Any]) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    text = StringIO()
    YAML().dump(metadata, text)
    return f"---\n{text.getvalue()}---\n\nConverted from {origin} to plain weights by distill-pipeline.\n"


if __name__ == "__main__":
    run_stage(main)
