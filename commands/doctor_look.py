"""What the doctor says of the models that training starts from: what `base` saw of them, or sees itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from commands.adopt_look import obstacle
from distill.evaluation.guessing import FREQUENCY_ROWS, FirstLook, stored_look
from distill.models.settings import ModelSettings
from distill.preflight.findings import Finding
from distill.preflight.models import PlannedModel

_BATCH = 4


def look_findings(
    family: str, student: str, models: Mapping[str, ModelSettings | None], origins: Mapping[str, PlannedModel]
) -> list[Finding]:
    """One finding each of `teacher` and `student`; none of a model that cannot be read now."""
    found, teacher = [], None
    for role, who in (("teacher", family), ("student", student)):
        seen = stored_look(who, Path()) or _taken(family, models.get(role), origins.get(role))
        if seen is None:
            continue
        doubt = seen.doubt(teacher)
        found.append(Finding("ok" if doubt is None else "warn", f"{role}'s start", doubt or seen.told()))
        teacher = seen.loss
    return found


def _taken(family: str, settings: ModelSettings | None, origin: PlannedModel | None) -> FirstLook | None:
    """A look at a model on this disk that is small enough, once the rows are prepared."""
    valid, train = (Path("data") / family / f"{split}.parquet" for split in ("valid", "train"))
    if settings is None or settings.source is None or origin is None or not (valid.is_file() and train.is_file()):
        return None
    if origin.where != "here" or origin.shape is None:
        return None
    # A cut model is made beside its origin.
    if obstacle(origin.shape.parameters, 2 if settings.is_cut else 1) is not None:
        return None
    from distill.conversion.cut import cut, layer_count
    from distill.evaluation.first_look import look_at
    from distill.models.loading import load_model
    from distill.project.errors import ModelError
    from distill.text.examples import read_examples

    try:
        model = load_model(settings.source)
        if settings.is_cut:
            model = cut(model, settings.kept_layers(layer_count(model)))
    except ModelError:  # said by the look at how it loads
        return None
    return look_at(model, read_examples(valid), read_examples(train, FREQUENCY_ROWS), _BATCH)
