"""Faults in params.yaml, a profile, an evaluation set or dvc.lock: one readable message with the fix, all at once."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from commands import check
from distill.project.errors import run_stage
from stages import evalset, prepare, results
from tests.tiny_pipeline import DELETED, PROFILE, ROOT, edit, environment, set_methods, write_table

PARAMS = Path("params.yaml")
MINI = Path("profiles/mini.yaml")
SMALL = "recipe.students.small"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What `commands.check` reads of the small pipeline, with this folder as the current one."""
    for folder in ("profiles", "evalsets", "labelsets", "judge", "distill/world"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("params.yaml", "dvc.yaml", "evalsets/toy_id.yaml", "labelsets/toy_whether.yaml", "judge/prompt.txt"):
        shutil.copy(ROOT / file, tmp_path / file)
    write_table(tmp_path)
    (tmp_path / MINI).write_text(PROFILE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


Refused = Callable[..., str]


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refused:
    """Run a command that must refuse its input; its message."""

    def run(main: Callable[[], None], *arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["stage", *arguments])
        with pytest.raises(SystemExit) as ended:
            run_stage(main)
        said = capsys.readouterr()
        assert ended.value.code == 2
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert "Traceback" not in said.err
        return said.err

    return run


def test_sound_settings_pass(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["check"])
    check.main()
    assert capsys.readouterr().out == "settings: 1 profile(s) and 1 evaluation set(s) are sound\n"


FAULTS: list[tuple[Path, str, Any, str]] = [
    # misspelt
    (MINI, f"{SMALL}.minillm.teacher_mix_alfa", 0.2, "did you mean `teacher_mix_alpha`?"),
    (MINI, f"{SMALL}.minilm", {}, "did you mean `minillm`?"),
    (MINI, f"{SMALL}.model.pretrian", None, "did you mean `pretrain`?"),
    (MINI, "recipe.datas", {}, "did you mean `data`?"),
    (MINI, "hardware.micro_bach", 8, "did you mean `micro_batch`?"),
    (PARAMS, "evaluation.sampling.temprature", 1.0, "did you mean `temperature`?"),
    (Path("evalsets/toy_id.yaml"), "licens", "mine", "did you mean `licence`?"),
    # out of range, or of the wrong kind
    (
        MINI,
        f"{SMALL}.sft.learning_rate",
        0,
        "recipe.students.small.sft.learning_rate: input should be greater than 0 (it is 0)",
    ),
    (MINI, f"{SMALL}.minillm.teacher_mix_alpha", 1.5, "input should be less than or equal to 1 (it is 1.5)"),
    (MINI, f"{SMALL}.minillm.rollouts", 12, "`rollouts` must be a multiple of `minibatch` (8); change"),
    (MINI, f"{SMALL}.minillm.preset", "best", "'default', 'paper' or 'reference' (it is 'best'); change it to fit\n"),
    (MINI, f"{SMALL}.kd.kd_ratio", 2, "less than or equal to 1"),
    (MINI, f"{SMALL}.sft.epochs", "many", "valid integer"),
    (MINI, "recipe.dtype", "int8", "'float32', 'bfloat16' or 'float16'"),
    (MINI, "recipe.prompt.without_input", "Say something.", "{instruction}"),
    (MINI, "recipe.teacher.model.init", DELETED, "give exactly one of `source` and `init`"),
    (MINI, "hardware.decode_batch", 0, "greater than or equal to 1 (it is 0)"),
    (PARAMS, "evaluation.seeds", [], "at least 1 item"),
    (PARAMS, "seed", "first", "valid integer"),
    (PARAMS, "seed", True, "valid integer"),
    (PARAMS, "seed", 10**30, "less than 4294967296"),
    (PARAMS, "evaluation.seeds", [10, 20, 10], "seed 10 stands there more than once"),
    (PARAMS, "evaluation.seeds", [10, 20.0], "valid integer"),
    (PARAMS, "evaluation.seeds", [-1], "greater than or equal to 0 (it is -1)"),
    (PARAMS, "judge.protocol.seeds", [10, 10], "seed 10 stands there more than once"),
    # missing
    (
        MINI,
        f"{SMALL}.sft",
        DELETED,
        "recipe.students.small has no section `sft`, which the methods of params.yaml name",
    ),
    (MINI, "recipe.prompt.max_prompt_tokens", DELETED, "max_prompt_tokens is missing; add it"),
    (MINI, "recipe.data.rows.student", DELETED, "recipe.data.rows.student is missing, and DVC watches it; write it"),
    (PARAMS, "evaluation.sampling", DELETED, "evaluation.sampling is missing, and DVC watches it; write it"),
    # in two places
    (MINI, "seed", 1, "profiles/mini.yaml: seed stand(s) in params.yaml too; a setting lives in one place: keep one"),
    (MINI, "recipe.evaluation", {}, "evaluation stand(s) in params.yaml too"),
    # unknown names
    (PARAMS, "students.large", {"family": "mini"}, "student `large` has no recipe in profiles/mini.yaml; add"),
    (PARAMS, "students.small.family", "giant", "names family `giant`; the families are: mini"),
    (PARAMS, "families.giant", "distill/world", "family `giant` has no profile profiles/giant.yaml; write it or"),
    (PARAMS, "methods", ["sft", "kd"], "each method names its students: write `sft: *students` for `- sft`"),
    (PARAMS, "methods.kd", {}, "method `kd` must name the rows of all students; write `kd: *students`"),
    (PARAMS, "trained", {}, "`trained` must be the rows of `methods`; write `methods: &methods`, `trained: *methods`"),
    (
        PARAMS,
        "datasets.trivia",
        "distill/world",
        "`trivia` has no evalsets/trivia.yaml; write it or use one of: toy_id",
    ),
    (PARAMS, "families.mini", "my/rows", "families.mini: my/rows does not exist; correct the path or fetch the data"),
    (PARAMS, "families.mini", "~/rows", "families.mini: ~/rows does not exist; DVC knows no `~`; write the whole path"),
    (PARAMS, "calibration", [], "calibration must name sets, e.g. toy_whether: distill/world; for none write"),
    (PARAMS, "datasets", {"a" * 300: "data/x"}, "letters, digits, `_` and `-` only, 80 at most"),
    (PARAMS, "datasets.toy_id", "my/set.jsonl", "datasets.toy_id: my/set.jsonl does not exist; correct the path"),
    # names that DVC cannot take
    (PARAMS, "students", {"opt-1.3b": {"family": "mini"}}, "`opt-1.3b` may hold letters, digits, `_` and `-` only"),
    (PARAMS, "datasets", {"toy.id": "data/x"}, "no dots: write opt-1b3"),
    (PARAMS, "students", {"mini": {"family": "mini"}}, "`mini` is both a student and a family"),
]


@pytest.mark.parametrize(("file", "place", "value", "said"), FAULTS, ids=[place for _, place, _, _ in FAULTS])
def test_a_fault_is_named_with_its_fix(
    project: Path, refused: Refused, file: Path, place: str, value: Any, said: str
) -> None:
    edit(project / file, place, value)
    assert said in refused(check.main)


BLOCKS = [
    ("objective: kd.py", "objective: kd", "block kd has `objective: kd`, which DVC cannot watch; write kd.py"),
    (
        "objective: kd.py",
        "objective: kdd.py",
        "no objective `kdd` in distill/objectives; write kdd.py or use one of: jsd",
    ),
    ("jsd.py, start: init", "jsd.py, start: nit", "block jsd has `start: nit`; write base or init"),
    (
        "method: jsd, objective: jsd.py",
        "method: jsd, objective: minillm",
        "minillm needs own samples; use the template",
    ),
    ("method: gkd, objective: jsd.py", "method: gkd, objective: sft.py", "sft.py learns nothing from own samples; use"),
    (
        "method: gkd, objective: jsd.py",
        "method: gdk, objective: jsd.py",
        "block gkd has `method: gdk`; write `method: gkd`",
    ),
    (
        "<<: *with_teacher, vars: [{method: jsd",
        "<<: *on_data, vars: [{method: jsd",
        "jsd.py needs the teacher; use the temp",
    ),
    (", gkd: {},", ",", "dvc.yaml: `gkd` is not in `trained` of its vars; add `gkd: {}`"),
]


@pytest.mark.parametrize(("old", "new", "said"), BLOCKS, ids=[new for _, new, _ in BLOCKS])
def test_a_fault_in_a_block_of_the_graph_is_named_with_its_fix(
    project: Path, refused: Refused, old: str, new: str, said: str
) -> None:
    graph = (project / "dvc.yaml").read_text()
    assert old in graph
    (project / "dvc.yaml").write_text(graph.replace(old, new, 1))
    assert said in refused(check.main)


def test_a_section_is_written_once_for_all_students(
    project: Path, refused: Refused, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """YAML's own merge: a student takes what is there and overrides what differs."""
    profile = (project / MINI).read_text()
    shared = "  methods: &shared\n    jsd: {learning_rate: 1e-3, batch_size: 8, epochs: 1}\n\n  students:\n    small:\n"
    (project / MINI).write_text(profile.replace("  students:\n    small:\n", f"{shared}      <<: *shared\n"))
    set_methods(project, "sft", "minillm", "jsd")
    monkeypatch.setattr(sys, "argv", ["check"])
    check.main()
    capsys.readouterr()
    edit(project / MINI, "recipe.methods.jsd.batch_size", 0)
    assert "recipe.students.small.jsd" in refused(check.main)


def test_a_policy_gradient_refuses_rows_of_the_data(project: Path, refused: Refused) -> None:
    edit(project / MINI, f"{SMALL}.minillm.own_share", 0.5)
    assert "a policy gradient needs responses that were sampled; set `own_share: 1`" in refused(check.main)


def test_all_faults_are_told_at_once(project: Path, refused: Refused) -> None:
    for place, value in {
        f"{SMALL}.minillm.teacher_mix_alfa": 0.2,
        f"{SMALL}.minillm.learning_rate": -1,
        f"{SMALL}.sft.batch_size": 0,
        "recipe.teacher.sft.epoch": 3,
        "hardware.threads": 0,
    }.items():
        edit(project / MINI, place, value)
    edit(project / PARAMS, "evaluation.sampling.top_p", 2)
    set_methods(project, "sft", "dpo")
    edit(project / "evalsets/toy_id.yaml", "licence", DELETED)
    message = refused(check.main)
    for place in (
        "recipe.students.small.minillm.teacher_mix_alfa",
        "recipe.students.small.minillm.learning_rate",
        "recipe.students.small.sft.batch_size",
        "recipe.teacher.sft.epoch",
        "hardware.threads",
        "evaluation.sampling.top_p",
        "method `dpo`",
        "evalsets/toy_id.yaml: licence",
    ):
        assert place in message
    assert len(message.splitlines()) == 9, "a heading, and one line for each fault"


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (PARAMS, None, "faults:\n  params.yaml does not exist; create it or correct the name that led here\n"),
        (MINI, None, "family `mini` has no profile profiles/mini.yaml"),
        (PARAMS, "seed: [1\n", "params.yaml:2 is not valid YAML: did not find expected ',' or ']'; correct that line"),
        (
            MINI,
            PROFILE.replace("    batch_size", "\tbatch_size").replace("  data:", "\tdata:"),
            "mini.yaml:4 is not valid YAML: found a tab",
        ),
        (PARAMS, "judge: {model: qwen2.5:7b}\n", "found unexpected ':' in `qwen2.5:7b`; put the value in quotes"),
        (MINI, PROFILE + "hardware: {threads: 2}\n", ':34 is not valid YAML: found duplicate key "hardware"'),
        (MINI, "", "profiles/mini.yaml must hold `key: value` lines"),
    ],
)
def test_a_file_that_cannot_be_read(
    project: Path, refused: Refused, file: Path, content: str | None, said: str
) -> None:
    if content is None:
        (project / file).unlink()
    else:
        (project / file).write_text(content)
    assert said in refused(check.main)


@pytest.mark.parametrize(
    ("main", "name", "said"),
    [
        (prepare.main, "minni", "did you mean `mini`?"),
        (evalset.main, "toy", "did you mean `toy_id`?"),
        (results.main, "smal", "did you mean `small`?"),
    ],
)
def test_a_stage_of_data_or_results_knows_its_names(
    project: Path, refused: Refused, main: Callable[[], None], name: str, said: str
) -> None:
    assert said in refused(main, name)


def test_a_stage_reports_its_own_section(project: Path, refused: Refused) -> None:
    edit(project / MINI, "recipe.data.world.trane", 10)
    edit(project / MINI, "recipe.data.rows.student", 0)
    message = refused(prepare.main, "mini")
    assert "recipe.data.world.trane is not a setting; did you mean `train`?" in message
    assert "recipe.data.rows.student: input should be greater than or equal to 1" in message
    assert not (project / "data").exists()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"train": {"path": "none.jsonl"}}, "none.jsonl does not exist; correct the path or put the file there"),
        ({"train": {"path": "empty.jsonl"}}, "empty.jsonl has no rows; point to a file or split that has some"),
        ({"valid": {"path": "blank.jsonl"}}, "blank.jsonl is left (2 empty response); correct the file"),
        ({"fields": {"output": "answer"}}, "has no field for `output: answer`; its fields are instruction, output;"),
        ({"valid_rows": 3}, "too few to take 3 of them for validation; lower `valid_rows`"),
    ],
)
def test_own_rows_that_are_not_there(project: Path, refused: Refused, data: dict[str, Any], said: str) -> None:
    row = '{"instruction": "Say hello.", "output": "%s"}\n'
    files = {"rows.jsonl": row % "Hello." * 3, "empty.jsonl": "", "blank.jsonl": row % " " * 2}
    for name, content in files.items():
        (project / "distill/world" / name).write_text(content)
    held = {} if "valid" in data else {"valid_rows": 1}
    rows = {"rows": {"teacher": None, "student": None}}
    edit(project / MINI, "recipe.data", {"train": {"path": "rows.jsonl"}, **held, **rows, **data})
    message = refused(prepare.main, "mini")
    assert said in message
    assert not (project / "data").exists()


def test_an_empty_split_of_the_world(project: Path, refused: Refused) -> None:
    edit(project / MINI, "recipe.data.world.valid", 0)
    assert "the toy world's valid has no rows; give it some" in refused(prepare.main, "mini")
    assert not (project / "data").exists()


def test_the_command_itself(project: Path) -> None:
    edit(project / MINI, f"{SMALL}.sft.learning_rat", 1e-3)
    command = [sys.executable, "-m", "commands.check"]
    variables = environment() | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (2, "")
    place = "profiles/mini.yaml: recipe.students.small.sft.learning_rat"
    assert ran.stderr == (
        f"error: the settings have faults:\n  {place} is not a setting; did you mean `learning_rate`?\n"
    )
