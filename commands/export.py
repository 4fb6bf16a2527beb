"""Export a trained model as a folder that `from_pretrained`, vLLM and the hub accept, with a model card.

python -m commands.export tiny minillm                             # exports/tiny-minillm
python -m commands.export tiny minillm --to ../mine --dtype bfloat16
python -m commands.export tiny minillm --push owner/name           # with the token in HF_TOKEN
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, get_args

from distill.models.settings import Dtype
from distill.project.errors import SettingsError, run_stage
from distill.project.files import read_json
from distill.project.references import ModelReference
from distill.project.settings import lookup, read_yaml
from distill.project.table import PARAMS, profile_path, read_table
from distill.scoring.names import TEACHER
from distill.scoring.stored import read_metrics
from distill.sharing.ancestry import ancestor_of, licence_of, read_front_matter
from distill.sharing.card import CardOrigin, write_card
from distill.sharing.hub import push, require_token


def main() -> None:
    """Write the folder and, when asked to, push it."""
    parser = argparse.ArgumentParser(prog="python -m commands.export", description=__doc__.splitlines()[0])
    parser.add_argument("student")
    parser.add_argument("method", help="a method of params.yaml, or teacher")
    parser.add_argument("--to", type=Path, help="folder to write (exports/<student>-<method>)")
    parser.add_argument("--dtype", choices=get_args(Dtype), help="precision of the weights (the recipe's)")
    parser.add_argument("--push", metavar="OWNER/NAME", help="upload it to this repository of the hub")
    parser.add_argument("--public", action="store_true", help="make a new repository public")
    arguments = parser.parse_args()
    token = require_token(arguments.push, os.environ) if arguments.push else ""
    folder = arguments.to or Path("exports") / f"{arguments.student}-{arguments.method}"
    export(arguments.student, arguments.method, folder, arguments.dtype)
    print(f"wrote {folder}")
    if token:
        print(f"pushed to {push(folder, arguments.push, token, arguments.public)}")


def export(student: str, method: str, folder: Path, dtype: str | None) -> None:
    """Write one export. Raises: SettingsError for an unknown model, ModelError when it is not built."""
    table = read_table()
    if student not in table.students:
        raise SettingsError(f"`{student}` is no student of {PARAMS}; use one of: {', '.join(table.students)}")
    family = table.students[student].family
    profile = profile_path(family)
    recipe = lookup(read_yaml(profile), "recipe", profile)
    source = Path("runs") / (family if method == TEACHER else student) / method
    meta = _built(source)
    if meta is None:
        places = (Path("runs") / student / name for name in ["init", *table.methods])
        known = ", ".join(path.name for path in (*places, Path("runs") / family / TEACHER) if _built(path) is not None)
        if method not in (TEACHER, "init", *table.methods):
            raise SettingsError(f"`{method}` is no method of {PARAMS}; use {known or ', '.join(table.methods)}")
        if (source / "meta.json").is_file():
            instead = known and f", or use one that is built: {known}"
            raise SettingsError(f"{profile} leaves `{method}` of `{student}` out; give its section{instead}")
        raise SettingsError(f"{source} is not built; run `dvc repro`{known and f', or use one that is: {known}'}")
    from distill.generation.settings import EvaluationSettings
    from distill.models.loading import load_model
    from distill.project.settings import section
    from distill.sharing.folder import require_free, write_export
    from distill.text.tokenizers import load_tokenizer

    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # nothing is trained here; DeepSpeed would warn that it had to guess
    require_free(folder)
    sampling = section(PARAMS, "evaluation", EvaluationSettings).sampling
    settings = recipe["teacher"] if method == TEACHER else recipe["students"][student]
    found, cut = _start(settings, method, meta)
    record = Path(f"{source}.run.json")
    results = Path("results") / f"{student}.json"
    origin = CardOrigin(
        student=family if method == TEACHER else student,
        method=method,
        note=str(recipe.get("note") or "").strip(),
        ancestor=None if found is None else ancestor_of(ModelReference.model_validate(found)),
        meta=meta,
        run=read_json(record) if record.is_file() else {},
        results=read_metrics(results) if results.is_file() else {},
        data=recipe["data"],
        sets={name: _described(name) for name in table.datasets},
        sampling=sampling.model_dump(),
        taken=_taken(settings, method) is not None,
        cut=cut,
        data_licence=_data_licence(recipe["data"], Path(table.families[family])),
    )
    model = load_model(source, dtype or recipe["dtype"])
    limit = int(meta["prompt"]["max_response_tokens"])
    write_export(model, load_tokenizer(source), sampling, limit, write_card(origin), meta, folder)


def _built(checkpoint: Path) -> dict[str, Any] | None:
    """meta.json of a checkpoint; None where it is not built, or the profile leaves its method out."""
    path = checkpoint / "meta.json"
    meta: dict[str, Any] = read_json(path) if path.is_file() else {"left_out": True}
    return None if meta.get("left_out") else meta


def _taken(settings: dict[str, Any], method: str) -> Any:
    """The finished checkpoint that stands in the place of a method's training, if one does."""
    return (settings if method == TEACHER else settings[method]).get("from")


def _start(settings: dict[str, Any], method: str, meta: dict[str, Any]) -> tuple[Any, str]:
    """The model from elsewhere that the weights go back to, and how it was cut; (None, "") for random weights."""
    # A finished checkpoint stands on itself, and so does what starts from one.
    found = _taken(settings, method)
    if found is None and meta.get("tokens") == "own samples":
        found = _taken(settings, "init")
    if found is not None:
        return found, ""
    model = settings["model"] or {}
    cut = (f"`{name}: {model[name]}`" for name in ("keep_layers", "drop_layers") if model.get(name))
    return model.get("source"), ", ".join(cut)


def _data_licence(data: dict[str, Any], rows: Path) -> str:
    """The licence of the training rows: the profile's word, this project's for the toy, or a card beside the rows."""
    if data.get("licence") or data.get("world"):
        return str(data.get("licence") or "Apache-2.0 (this project)")
    return licence_of(read_front_matter((rows if rows.is_dir() else rows.parent) / "README.md"))


def _described(name: str) -> dict[str, Any]:
    """An evaluation set's own description."""
    path = Path("evalsets") / f"{name}.yaml"
    return read_yaml(path) if path.is_file() else {}


if __name__ == "__main__":
    run_stage(main)
