"""Validate every setting before any work: the table, the profiles, the evaluation sets; all faults at once.

python -m commands.check            what params.yaml names
python -m commands.check --all      every profile and evaluation set in the repository too
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from commands.check_machine import hardware_faults
from commands.check_models import family_tokenizer, unfit_models
from commands.methods import START, read_methods
from commands.recipe import Profile, Recipe, profile_of
from commands.watched import unwritten_params, unwritten_settings
from distill.data.evalset import EvalSetSettings
from distill.evaluation.labelled import LabelSetSettings
from distill.generation.settings import EvaluationSettings
from distill.judging.prompt import read_template
from distill.judging.settings import JudgeSettings, judge_faults, pseudo_faults
from distill.models.settings import ModelSettings, Taken
from distill.preflight.decoding import undecodable_init
from distill.preflight.models import layer_fault
from distill.preflight.shapes import FAMILIES
from distill.project.errors import SettingsError, run_stage
from distill.project.references import ModelReference
from distill.project.settings import S, Settings, lookup, parse, read_yaml, section
from distill.project.table import PARAMS, Table, profile_path, read_profile, read_table
from distill.training.settings import SampledRowsSettings


def main() -> None:
    """Print what was found sound, or every fault at once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="every profile and evaluation set, used or not")
    faults, profiles, sets = found_faults(parser.parse_args().all)
    if faults:
        raise SettingsError("the settings have faults:\n  " + "\n  ".join(faults))
    print(f"settings: {profiles} profile(s) and {sets} evaluation set(s) are sound")


def found_faults(everything: bool) -> tuple[list[str], int, int]:
    """(faults, profiles looked at, evaluation sets looked at), of what params.yaml names or of everything there is."""
    faults: list[str] = []
    table = _attempt(faults, read_table)
    evaluation = _attempt(faults, lambda: section(PARAMS, "evaluation", EvaluationSettings))
    judge = _attempt(faults, lambda: section(PARAMS, "judge", JudgeSettings))
    families = set(table.families) if table else set()
    names = {p.stem for p in Path("profiles").glob("*.yaml")} if everything else set()
    profiles = {name: _attempt(faults, lambda n=name: check_profile(n)) for name in sorted(families | names)}
    sets = set(table.datasets) if table else set()
    sets |= {p.stem for p in Path("evalsets").glob("*.yaml")} if everything else set()
    for name in sorted(sets):
        _attempt(faults, lambda n=name: read_evalset(n))
    labelled = _attempt(faults, read_calibration) or {}
    for name in sorted(labelled.keys() | ({p.stem for p in Path("labelsets").glob("*.yaml")} if everything else set())):
        _attempt(faults, lambda n=name: read_labelset(n))
    if table is not None:
        faults += cross_faults(table, profiles, labelled)
    if judge is not None:
        _attempt(faults, lambda: read_template(Path(judge.protocol.prompt)))
    if table is not None and evaluation is not None and judge is not None:
        found = judge_faults(judge, table.datasets, evaluation.seeds, os.environ)
        faults += [f"{PARAMS}: {fault}" for fault in found]
    return list(dict.fromkeys(faults)), len(profiles), len(sets)


def _attempt(faults: list[str], read: Callable[..., Any]) -> Any:
    """What `read` returns, or None with its faults noted."""
    try:
        return read()
    except SettingsError as error:
        faults.append(str(error))
        return None


def check_profile(family: str) -> Profile:
    """A whole profile. Raises: SettingsError with all its faults."""
    return parse(read_profile(family), profile_of(read_methods()), str(profile_path(family)))


def read_evalset(name: str) -> EvalSetSettings:
    """One evaluation set's description. Raises: SettingsError."""
    return _described("evaluation set", "evalsets", name, EvalSetSettings)


def read_labelset(name: str) -> LabelSetSettings:
    """One labelled set's description. Raises: SettingsError."""
    return _described("labelled set", "labelsets", name, LabelSetSettings)


def _described(kind: str, folder: str, name: str, model: type[S]) -> S:
    path = Path(folder) / f"{name}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise SettingsError(f"{kind} `{name}` has no {path}; write it or use one of: {known}")
    return parse(read_yaml(path), model, str(path))


def read_calibration() -> dict[str, str]:
    """The labelled sets of params.yaml and where they lie; none where calibration is not measured.

    Raises: SettingsError when it is no mapping.
    """
    named = lookup(read_yaml(PARAMS), "calibration", PARAMS)
    if not isinstance(named, dict):
        raise SettingsError(
            f"{PARAMS}: calibration must name sets, e.g. toy_whether: distill/world; for none write `calibration: {{}}`"
        )
    return {str(name): str(path) for name, path in named.items()}


def cross_faults(table: Table, profiles: dict[str, Profile | None], labelled: dict[str, str]) -> list[str]:
    """Faults that no single section shows."""
    faults = []
    for student, row in table.students.items():
        profile = profiles.get(row.family)
        if profile is not None and student not in profile.recipe.students:
            known = ", ".join(profile.recipe.students)
            faults.append(
                f"student `{student}` has no recipe in profiles/{row.family}.yaml; add recipe.students.{student} "
                f"or use one of: {known}"
            )
        elif profile is not None:
            faults += method_faults(f"profiles/{row.family}.yaml", student, profile.recipe, list(table.methods))
    faults += unwritten_params()
    for name, profile in profiles.items():
        if profile is not None:
            rows = table.students.items()
            used = [student for student, row in rows if row.family == name and student in profile.recipe.students]
            faults += unwritten_settings(profile_path(name), used)
            if name in table.families:
                sources = model_sources(f"profiles/{name}.yaml", profile.recipe, used)
                tokenizer = family_tokenizer(name, profile.recipe.tokenizer)
                faults += unfit_models(sources, tokenizer, profile.recipe.prompt)
                faults += unfit_models_to_make(f"profiles/{name}.yaml", profile.recipe, used)
            sections = training_sections(profile.recipe, used)
            found = hardware_faults(profile.hardware, profile.recipe.dtype, sections)
            faults += [f"{profile_path(name)}: {fault}" for fault in found]
    for family in table.families:
        if (profile := profiles.get(family)) is not None:
            faults += [f"profiles/{family}.yaml: {fault}" for fault in pseudo_faults(profile.recipe.pseudo, os.environ)]
    # What is wrong with a block is told by the profiles, which cannot be read without it.
    if blocks := [name for name in _attempt([], read_methods) or {} if name != START]:
        known = ", ".join(blocks)
        faults += [
            f"{PARAMS}: method `{method}` has no block in dvc.yaml; add its three lines or use one of: {known}"
            for method in table.methods
            if method not in blocks
        ]
        faults += unlisted_methods(blocks)
    for kind, places in (
        ("families", table.families),
        ("datasets", table.datasets),
        ("calibration", labelled),
    ):
        for name, place in places.items():
            # What lies below data/ is made by the pipeline itself.
            if not place.startswith("data/") and not os.path.exists(place):  # noqa: PTH110  (False for an overlong name)
                fix = (
                    "correct the path or fetch the data"
                    if place[:1] != "~"
                    else "DVC knows no `~`; write the whole path"
                )
                faults.append(f"{PARAMS}: {kind}.{name}: {place} does not exist; {fix}")
    return faults


def unfit_models_to_make(profile: str, recipe: Recipe, students: list[str]) -> list[str]:
    """One fault for each fresh model of an architecture that cannot be decoded, and each cut that cannot be made."""
    models = {"recipe.teacher.model": recipe.teacher.model}
    models |= {f"recipe.students.{name}.model": recipe.students[name].model for name in students}
    inits = {place: model.init for place, model in models.items() if model is not None and model.init is not None}
    # The shipped architectures are known, and need no seconds of imports.
    others = {place: init for place, init in inits.items() if init.get("model_type") not in FAMILIES}
    found = {f"{place}.init": undecodable_init(init) for place, init in others.items()}
    found |= {place: layer_fault(model, os.environ) for place, model in models.items() if model is not None}
    return [f"{profile}: {place}: {fault}" for place, fault in found.items() if fault is not None]


def model_sources(profile: str, recipe: Recipe, students: list[str]) -> dict[str, ModelReference]:
    """Every model from elsewhere that the family's teacher and these students name, by its place in the profile."""
    found = {f"{profile}: recipe.teacher.from": recipe.teacher.taken}
    parts: dict[str, Settings] = {"recipe.teacher": recipe.teacher}
    parts |= {f"recipe.students.{name}": recipe.students[name] for name in students}
    for place, part in parts.items():
        for name in type(part).model_fields:
            section = getattr(part, name)
            if isinstance(section, ModelSettings | Taken):
                found[f"{profile}: {place}.{name}"] = section.source
    return {place: source for place, source in found.items() if source is not None}


def training_sections(recipe: Recipe, students: list[str]) -> dict[str, Any]:
    """What the family's teacher and these students are trained with, by its place in the profile."""
    found: dict[str, Any] = {"recipe.teacher.sft": recipe.teacher.sft}
    for student in students:
        trained = recipe.students[student].trained
        found |= {f"recipe.students.{student}.{name}": part for name, part in trained.items()}
    return found


def method_faults(profile: str, student: str, recipe: Recipe, methods: list[str]) -> list[str]:
    """Methods without a section, and those that would learn from more of the teacher's responses than are drawn."""
    drawn = 0 if recipe.pseudo is None else recipe.pseudo.samples_per_prompt
    own, place = recipe.students[student], f"{profile}: recipe.students.{student}"
    wanted = [START, *methods]
    faults = [
        f"{place} has no section `{method}`, which the methods of {PARAMS} name; write the section, or take `{method}` "
        f"out of the methods"
        if method != START
        else f"{place} has no section `{START}`; write it, with null where no method starts from it"
        for method in wanted
        if method in own.methods and method not in own.sections
    ]
    faults += [
        f"{place}.{method} is null, so there is nothing to evaluate; give the section, or "
        f"take `{method}` out of the methods of {PARAMS}"
        for method in methods
        if method in own.sections and own.sections[method] is None
    ]
    return faults + [
        f"{place}.{method} wants {section.samples_per_prompt} samples a prompt and "
        f"recipe.pseudo draws {drawn}; raise recipe.pseudo.samples_per_prompt or lower the other"
        for method in methods
        if isinstance(section := own.sections.get(method), SampledRowsSettings) and section.samples_per_prompt > drawn
    ]


def unlisted_methods(blocks: list[str]) -> list[str]:
    """Blocks of dvc.yaml that its `vars` do not list: DVC could not read the file where params.yaml names others."""
    listed = {name for each in read_yaml(Path("dvc.yaml")).get("vars", []) for name in each.get("trained", {})}
    absent = [name for name in blocks if name not in listed]
    return [f"dvc.yaml: `{name}` is not in `trained` of its vars; add `{name}: {{}}`" for name in absent]


if __name__ == "__main__":
    run_stage(main)
