"""The project's shape, held by reading it: who imports whom, what DVC is told, what the repository holds."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from itertools import combinations
from pathlib import Path, PurePosixPath

import pytest
from ruamel.yaml import YAML

from tests import file_list
from tests.declared_stages import CODE, Stage, dependency_faults, read_pipeline
from tests.import_closure import ROOT, imported_names, python_files, third_party

# Editing what is on the right must never retrain what is on the left, and starting a flow must stay quick.
NEVER_IMPORTS = {
    "distill": {"prefect", "dvc", "openai", "stages", "commands", "tasks", "flows", "tests", "benchmarks"},
    "stages": {"prefect", "commands", "tasks", "flows", "tests", "benchmarks"},
    "commands": {"prefect", "tasks", "flows", "tests", "benchmarks"},
    "tasks": {"torch", "transformers", "datasets", "distill", "stages", "commands", "flows", "tests", "benchmarks"},
    "flows": {"torch", "transformers", "datasets", "distill", "stages", "commands", "tests", "benchmarks"},
}

# The numbers of the method, which run and are measured on a machine that has only these.
CORE = ("distill/generation", "distill/losses", "distill/models", "distill/objectives", "distill/on_policy")
CORE_MAY_IMPORT = {"torch", "transformers", "pydantic", "safetensors", "numpy"}
# Imported where an adapter is and not before, so that it need not be there otherwise.
CORE_IMPORTS_LATE = {Path(f"distill/models/{name}.py"): {"peft"} for name in ("lora", "merging")}

LOADER = Path("distill/training/objective.py")
MOST_LINES = 350
MOST_BYTES = 2**20
# The leading slash is apart, so that this file does not hold what it looks for.
MACHINE_PATH = re.compile(rb"(?<![\w.:/~$}-])/" + rb"(work|root|opt|home|Users)/")
NAMES_THAT_SAY_NOTHING = {"utils", "util", "common", "helpers", "helper", "misc"}


@cache
def pipeline() -> tuple[Stage, ...]:
    """All stages of the project's dvc.yaml."""
    assert (ROOT / "dvc.yaml").is_file(), "dvc.yaml is missing; the pipeline is defined there"
    return read_pipeline(ROOT)


@cache
def repository_files() -> tuple[Path, ...]:
    """What is in git or would be added to it, relative to the root."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True)
    if listed.returncode:
        pytest.skip("this is not a git clone, so there is no list of its files")
    paths = (Path(name) for name in listed.stdout.decode().split("\0") if name)
    return tuple(sorted(path for path in paths if (ROOT / path).is_file()))


def modules(*folders: str) -> list[Path]:
    """The non-empty Python files of the folders, relative to the root."""
    return sorted(file for folder in folders for file in python_files(Path(folder), ROOT))


# --- who imports whom ---------------------------------------------------------------------------------


@pytest.mark.parametrize("package", NEVER_IMPORTS)
def test_layers(package: str) -> None:
    wrong = []
    for file in modules(package):
        source = (ROOT / file).read_text(encoding="utf-8")
        names = imported_names(source, ".".join(file.parent.parts), type_checking=True)
        forbidden = sorted(name for name in names if name.split(".")[0] in NEVER_IMPORTS[package])
        wrong += [f"{file} imports {name}" for name in forbidden]
    assert not wrong, "\n".join(wrong)


def test_only_the_judge_imports_openai() -> None:
    importers = [file.as_posix() for file in modules(*CODE - {"tests"}) if "openai" in third_party(file)]
    wrong = [file for file in importers if not file.startswith("stages/judge")]
    assert not wrong, f"only stages/judge* may import openai: {wrong}"


def test_the_method_needs_torch_and_transformers_only() -> None:
    wrong = []
    for file in modules(*CORE):
        allowed = CORE_MAY_IMPORT | CODE | CORE_IMPORTS_LATE.get(file, set())
        wrong += [f"{file} imports {name}" for name in sorted(third_party(file) - allowed)]
        source = (ROOT / file).read_text(encoding="utf-8")
        late = CORE_IMPORTS_LATE.get(file, set())
        wrong += [
            f"{file} imports {name} at its top" for name in late if re.search(rf"^(from|import) {name}\b", source, re.M)
        ]
    assert not wrong, "\n".join([*wrong, f"{', '.join(CORE)} may import {sorted(CORE_MAY_IMPORT)} only"])


def test_every_imported_package_is_declared() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = sum(project["optional-dependencies"].values(), project["dependencies"])
    declared = {normal(re.split(r"[\[<>=~! ]", line)[0]) for line in lines}
    owners = packages_distributions()
    wrong = set()
    for file in modules(*CODE):
        for name in third_party(file) - CODE:
            if not declared & {normal(owner) for owner in owners.get(name, [name])}:
                wrong.add(f"{file} imports {name}")
    assert not wrong, "\n".join([*sorted(wrong), "pyproject.toml must name what is imported directly"])


def normal(name: str) -> str:
    """A distribution's name in the one spelling that package indexes compare."""
    return re.sub(r"[-_.]+", "-", name).lower()


def test_no_import_hides_from_the_closure() -> None:
    hidden = re.compile(r"\b(import_module|__import__|run_module|run_path)\(")
    # One file imports by name: commands in dvc.yaml name objectives, and `deps:` are held to name them too.
    files = [file for file in modules("distill", "stages", "commands") if file != LOADER]
    wrong = [file.as_posix() for file in files if hidden.search((ROOT / file).read_text(encoding="utf-8"))]
    assert not wrong, f"DVC is never told of an import by name; write it as an import statement: {wrong}"


# --- what DVC is told ---------------------------------------------------------------------------------


def test_code_dependencies_are_the_import_closure() -> None:
    """A stage re-runs when a module it imports changes, and when no other does."""
    faults = sorted({fault for stage in pipeline() for fault in dependency_faults(stage, ROOT)})
    assert not faults, "dvc.yaml and the imports differ; run `python -m tests.import_closure --write`:\n" + "\n".join(
        faults
    )


def test_outputs_do_not_overlap() -> None:
    owners = [(PurePosixPath(out), stage.name) for stage in pipeline() for out in stage.outs]
    assert owners, "dvc.yaml has no stage with outputs"
    wrong = [
        f"{a} of {one} and {b} of {other}"
        for (a, one), (b, other) in combinations(owners, 2)
        if a.is_relative_to(b) or b.is_relative_to(a)
    ]
    assert not wrong, "\n".join(wrong)


def test_no_output_persists() -> None:
    wrong = [f"{stage.name}: {out}" for stage in pipeline() for out in stage.persisted]
    assert not wrong, f"`persist: true` turns the run cache off; unfinished state goes to .resume/: {wrong}"


def test_hardware_settings_are_not_tracked() -> None:
    """Another machine, another micro-batch: nothing is rebuilt for it."""
    wrong = []
    for stage in pipeline():
        wrong += [f"{stage.block}: dependency {dep}" for dep in stage.deps if dep.startswith("profiles")]
        keys = [key for file, key in stage.params if file.startswith("profiles")]
        wrong += [f"{stage.block}: key {key!r}" for key in keys if key.split(".")[0] != "recipe"]
    assert not wrong, f"track only keys below `recipe` of a profile: {sorted(set(wrong))}"


# --- settings -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["profiles", "evalsets"])
def test_settings_files_are_yaml_without_repeated_keys(folder: str) -> None:
    files = sorted((ROOT / folder).glob("*"))
    assert files, f"{folder}/ holds no YAML file"
    for file in files:
        assert re.fullmatch(r"[\w-]+\.yaml", file.name), f"{file.name}: name it <name>.yaml, no dot in <name>"
        content = YAML(typ="safe").load(file.read_text(encoding="utf-8"))
        assert isinstance(content, dict), f"{file.name} must hold `key: value` lines"


def test_every_profile_and_evaluation_set_is_valid() -> None:
    command = [sys.executable, "-m", "commands.check", "--all"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr


# --- what the repository holds ------------------------------------------------------------------------


def test_no_large_file() -> None:
    sizes = {file: (ROOT / file).stat().st_size for file in repository_files()}
    wrong = [f"{file} ({size} bytes)" for file, size in sizes.items() if size > MOST_BYTES]
    assert not wrong, f"files over {MOST_BYTES} bytes belong to DVC: {wrong}"


def test_no_path_of_one_machine() -> None:
    wrong = []
    for file in repository_files():
        for number, line in enumerate((ROOT / file).read_bytes().splitlines(), start=1):
            if MACHINE_PATH.search(line):
                wrong.append(f"{file}:{number}: {line.strip()[:80].decode(errors='replace')}")
    assert not wrong, "absolute paths of one machine:\n" + "\n".join(wrong)


def test_modules_are_short_and_named_by_what_they_hold() -> None:
    wrong = []
    for file in repository_files():
        if file.suffix != ".py":
            continue
        lines = len((ROOT / file).read_text(encoding="utf-8").splitlines())
        if lines > MOST_LINES:
            wrong.append(f"{file} has {lines} lines, more than {MOST_LINES}: split it")
        if NAMES_THAT_SAY_NOTHING & {file.stem, file.parent.name}:
            wrong.append(f"{file}: name it by what it holds")
    assert not wrong, "\n".join(wrong)


def test_every_module_is_in_the_list_of_files() -> None:
    text = (ROOT / file_list.FILE).read_text(encoding="utf-8")
    assert text == file_list.updated(text), f"{file_list.FILE} is not up to date; run `python -m tests.file_list`"
