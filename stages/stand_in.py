"""A stage that trains nothing because the profile says so: a finished checkpoint stands in, or the method is left out.

`from: <hub id or folder>` in a method's section (for the teacher: in `recipe.teacher`) takes that checkpoint;
`null` leaves the method out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from distill.generation.probe import require_decodable, tell_slowness
from distill.models.checkpoints import Adapted, RunRecord, save_checkpoint, save_reference
from distill.models.loading import load_weights
from distill.models.lora import read_adapter
from distill.models.origins import origin
from distill.models.parts import require_vocabulary
from distill.models.settings import LoraSettings, Taken
from distill.parallel.processes import device
from distill.project.files import fresh_dir, write_json
from distill.project.settings import lookup, parse
from distill.runs.curves import Curves
from distill.text.tokenizers import load_tokenizer, require_same_tokenizer
from stages.experiment import Experiment
from stages.first_look import doubt_finished


def stand_in(experiment: Experiment, method: Mapping[str, str]) -> bool:
    """Write the stage's outputs where nothing is to be trained; whether that was so.

    `method` says what would train: it goes into meta.json as a trained checkpoint's does.

    Raises: SettingsError, ModelError.
    """
    teacher = experiment.who == experiment.family
    place = experiment.recipe if teacher else f"{experiment.recipe}.{experiment.what}"
    content = lookup(experiment.content, place, experiment.profile)
    if content is None:
        _leave_out(experiment, method)
        return True
    if not isinstance(content, dict) or "from" not in content:
        return False
    # The teacher's section holds its model too.
    own = {name: content[name] for name in ("from", "copy") if name in content} if teacher else content
    _take(experiment, parse(own, Taken, f"{experiment.profile}: {place}"), method)
    return True


def _take(experiment: Experiment, taken: Taken, method: Mapping[str, str]) -> None:
    """Point to a finished checkpoint, or copy it here in the recipe's precision, with its validation scores as the one
    point of its curves; whatever does not fit the family is refused first.
    """
    record = RunRecord()
    tokenizer = experiment.tokenizer()
    found = origin(taken.source)
    require_same_tokenizer(tokenizer, load_tokenizer(found.base), experiment.some_texts())
    model = load_weights(found.base, experiment.dtype)
    torch.nn.Module.to(model, device())
    require_vocabulary(model, tokenizer, str(taken.source))
    tell_slowness(str(taken.source), require_decodable(model))
    adapted = None
    if found.adapter is not None:
        read_adapter(model, found.adapter)
        adapted = Adapted(LoraSettings(), found.base)
    scores = experiment.validation(tokenizer)(model)
    doubt_finished(experiment, model, scores["loss"], "as it was taken")
    meta = {**experiment.meta(taken), **method}
    if taken.copied:
        save_checkpoint(model, tokenizer, experiment.output, meta, adapted)
    else:
        save_reference(taken.source, tokenizer, experiment.output, meta)
    curves = Curves()
    curves.add(0, **{f"valid_{name}": value for name, value in scores.items()})
    curves.write(Path(f"{experiment.output}.curves"))
    record.write(Path(f"{experiment.output}.run.json"))


def _leave_out(experiment: Experiment, method: Mapping[str, str]) -> None:
    """What DVC expects of the stage, with nothing in it."""
    record = RunRecord()
    with fresh_dir(experiment.output) as aside:
        write_json(aside / "meta.json", {"who": experiment.who, "what": experiment.what, "left_out": True, **method})
    # A curve without a point: DVC warns of an empty folder.
    Curves({"valid_loss": []}).write(Path(f"{experiment.output}.curves"))
    record.write(Path(f"{experiment.output}.run.json"))
