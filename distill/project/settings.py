"""Reading settings: one section of one YAML file into one frozen pydantic model.

YAML is read with ruamel (YAML 1.2), which reads `1e-5` as a number as DVC does; PyYAML reads a string.
All faults of a section are reported at once, each with its file, its dotted place and a fix.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from distill.project.errors import SettingsError


class Settings(BaseModel):
    """Base of every settings class: frozen, no unknown keys, docstrings below fields are their help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; `SettingsError` names the file and line when it cannot be read."""
    try:
        content = YAML(typ="safe").load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist; create it or correct the name that led here") from None
    except YAMLError as error:
        raise SettingsError(f"{path} is not valid YAML: {error}; correct that line") from None
    if not isinstance(content, dict):
        raise SettingsError(f"{path} must hold `key: value` lines at its top; see profiles/toy.yaml")
    return content


def lookup(content: dict[str, Any], dotted: str, path: Path) -> Any:
    """The value at `dotted` (e.g. `recipe.students.tiny.sft`); a missing step names the keys there are."""
    value: Any = content
    walked: list[str] = []
    for step in dotted.split("."):
        if not isinstance(value, dict) or step not in value:
            known = [str(k) for k in value] if isinstance(value, dict) else []
            place = ".".join(walked) or "the top level"
            raise SettingsError(f"{path}: no `{step}` in {place}{_suggest(step, known)}")
        value = value[step]
        walked.append(step)
    return value


def section(path: Path, dotted: str, model: type[S]) -> S:
    """Read the section `dotted` of the YAML file `path` as `model`.

    Raises: SettingsError, with every fault of the section in one message.
    """
    return parse(lookup(read_yaml(path), dotted, path), model, f"{path}: {dotted}")


def parse(content: Any, model: type[S], place: str) -> S:
    """Validate already read `content` as `model`; `place` opens each line of the error."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise SettingsError("\n  ".join(explain(error, model, place))) from None


def explain(error: ValidationError, model: type[BaseModel], place: str) -> list[str]:
    """One readable line for each fault pydantic found."""
    return [_explain_one(fault, model, place) for fault in error.errors()]


def _explain_one(fault: ErrorDetails, model: type[BaseModel], place: str) -> str:
    where = ".".join([place, *(str(step) for step in fault["loc"])])
    if fault["type"] == "extra_forbidden":
        names = _field_names(model, fault["loc"][:-1])
        return f"{where} is not a setting{_suggest(str(fault['loc'][-1]), names)}"
    if fault["type"] == "missing":
        return f"{where} is missing; add it"
    message = fault["msg"].removeprefix("Value error, ")
    return f"{where}: {message[0].lower()}{message[1:]} (it is {fault['input']!r}); change it to fit"


def _field_names(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The settings that exist at a place inside `model`, for the suggestion after a misspelling."""
    for step in loc:
        field = model.model_fields.get(str(step))
        if field is None:
            continue  # a list index, a mapping's key or a union's tag
        for candidate in _models_in(field.annotation):
            model = candidate
            break
    return list(model.model_fields)


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for argument in getattr(annotation, "__args__", ()) for m in _models_in(argument)]


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    if near:
        return f"; did you mean `{near[0]}`?"
    return f"; the names there are: {', '.join(known)}" if known else "; remove it"
