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
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from distill.project.errors import SettingsError
from distill.project.yaml_faults import explain


class Settings(BaseModel):
    """Base of every settings class: frozen, no unknown keys, docstrings below fields are their help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


S = TypeVar("S", bound=Settings)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping; `SettingsError` names the file and line when it cannot be read."""
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        content = YAML(typ="safe").load(text)
    except FileNotFoundError:
        raise SettingsError(f"{path} does not exist; create it or correct the name that led here") from None
    except MarkedYAMLError as error:
        line, fault = explain(text, error)
        raise SettingsError(f"{path}:{line} is not valid YAML: {fault}") from None
    except (YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {error}; correct it") from None
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
        lines = [_explain(fault, content, model, place) for fault in error.errors()]
        raise SettingsError("\n  ".join(lines)) from None


def _explain(fault: ErrorDetails, content: Any, model: type[BaseModel], place: str) -> str:
    """One readable line for one fault; `place` is a file, or a file and a place in it."""
    steps = ".".join(_written_steps(fault["loc"], content))
    where = f"{place}{': ' if place.endswith('.yaml') else '.'}{steps}" if steps else place
    if fault["type"] == "extra_forbidden":
        names = _field_names(model, fault["loc"][:-1])
        return f"{where} is not a setting{_suggest(str(fault['loc'][-1]), names)}"
    if fault["type"] == "missing":
        return f"{where} is missing; add it"
    message = fault["msg"].removeprefix("Value error, ")
    # A whole section is too much to repeat.
    value = "" if isinstance(fault["input"], dict) else f" (it is {fault['input']!r})"
    return f"{where}: {message[0].lower()}{message[1:]}{value}; change it to fit"


def _written_steps(loc: tuple[int | str, ...], content: Any) -> list[str]:
    """The steps to a fault as they stand in the file: pydantic also names which kind of a union was meant."""
    steps = []
    for number, step in enumerate(loc, start=1):
        if isinstance(content, dict) and step not in content and number < len(loc):
            continue
        steps.append(str(step))
        content = content.get(step) if isinstance(content, dict) else None
    return steps


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
