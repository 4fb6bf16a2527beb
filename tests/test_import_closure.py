"""The closure that dvc.yaml is compared with, on small packages whose imports are known."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.declared_stages import dependency_faults, read_pipeline
from tests.import_closure import closure, grouped, imported_names, third_party


def write(root: Path, files: dict[str, str]) -> None:
    """Write `files` (path → text) below `root`."""
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")


def paths(*names: str) -> set[Path]:
    return {Path(name) for name in names}


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("import os", {"os"}),
        ("import a.b.c as d, e", {"a.b.c", "e"}),
        ("from a.b import c, d as e", {"a.b", "a.b.c", "a.b.d"}),
        ("from a import *", {"a"}),
        ("from . import x", {"pkg.sub", "pkg.sub.x"}),
        ("from .y import z", {"pkg.sub.y", "pkg.sub.y.z"}),
        ("from ..w import v", {"pkg.w", "pkg.w.v"}),
        ("def f():\n    if True:\n        import late", {"late"}),
        ("class C:\n    import inside", {"inside"}),
        ("try:\n    import fast\nexcept ImportError:\n    import slow", {"fast", "slow"}),
        ("if TYPE_CHECKING:\n    import hidden\nelse:\n    import shown", {"shown"}),
        ("import typing\nif typing.TYPE_CHECKING:\n    import hidden", {"typing"}),
        ("text = 'import nothing'", set()),
    ],
)
def test_imported_names(source: str, names: set[str]) -> None:
    assert imported_names(source, "pkg.sub") == names


def test_imports_for_types_are_given_when_asked_for() -> None:
    source = "if TYPE_CHECKING:\n    from a import b"
    assert imported_names(source, "pkg", type_checking=True) == {"a", "a.b"}


def test_closure_follows_modules_packages_and_late_imports(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "stages/__init__.py": "",
            "stages/one.py": "from distill.data import rows\ndef main():\n    import distill.model.load\n",
            "stages/two.py": "import stages.one",
            "distill/__init__.py": "\n",
            "distill/data/__init__.py": "",
            "distill/data/rows.py": "import json, torch\nfrom .fields import NAMES",
            "distill/data/fields.py": "if TYPE_CHECKING:\n    import distill.unused",
            "distill/model/__init__.py": "from distill.model.shape import Shape",
            "distill/model/load.py": "LOADED = 1",
            "distill/model/shape.py": "import tasks.run",
            "distill/unused.py": "import distill.data",
            "tasks/run.py": "import distill.unused",
        },
    )
    of_model = paths("distill/model/__init__.py", "distill/model/load.py", "distill/model/shape.py")
    of_data = paths("distill/data/rows.py", "distill/data/fields.py")
    assert closure(Path("stages/one.py"), tmp_path) == of_model | of_data | paths("stages/one.py")
    assert closure(Path("stages/two.py"), tmp_path) == of_model | of_data | paths("stages/one.py", "stages/two.py")


def test_closure_of_modules_that_import_each_other_ends(tmp_path: Path) -> None:
    write(tmp_path, {"distill/a.py": "import distill.b", "distill/b.py": "import distill.a"})
    assert closure(Path("distill/a.py"), tmp_path) == paths("distill/a.py", "distill/b.py")


def test_from_import_of_a_function_is_not_taken_for_a_module(tmp_path: Path) -> None:
    write(
        tmp_path,
        {"stages/s.py": "from distill.a import b", "distill/a.py": "def b(): ...", "distill/b.py": "x = 1"},
    )
    assert closure(Path("stages/s.py"), tmp_path) == paths("stages/s.py", "distill/a.py")


def test_third_party_names_leave_python_itself_out(tmp_path: Path) -> None:
    write(tmp_path, {"distill/a.py": "import os, torch.nn\nfrom transformers import X\nfrom distill import b"})
    assert third_party(Path("distill/a.py"), tmp_path) == {"torch", "transformers", "distill"}


def test_grouped_names_a_folder_only_when_all_of_it_is_imported(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "distill/data/rows.py": "x = 1",
            "distill/data/deep/er.py": "x = 1",
            "distill/text/used.py": "x = 1",
            "distill/text/unused.py": "x = 1",
            "stages/only.py": "x = 1",
        },
    )
    found = paths("distill/data/rows.py", "distill/data/deep/er.py", "distill/text/used.py", "stages/only.py")
    assert grouped(found, tmp_path) == ["distill/data", "distill/text/used.py", "stages/only.py"]


def test_dependency_faults_of_an_expanded_pipeline(tmp_path: Path) -> None:
    from dvc.repo import Repo

    write(
        tmp_path,
        {
            "stages/train.py": "import distill.loss.kd, distill.data.rows",
            "distill/data/__init__.py": "",
            "distill/data/rows.py": "x = 1",
            "distill/loss/kd.py": "x = 1",
            "distill/loss/other.py": "x = 1",
            "params.yaml": "students: {tiny: {lr: 1}, small: {lr: 2}}",
            "dvc.yaml": """
stages:
  exact:
    foreach: ${students}
    do:
      cmd: python -m stages.train ${key}
      deps: [stages/train.py, distill/data, distill/loss/kd.py, "data/${key}"]
      params: ["students.${key}.lr"]
      outs: ["runs/${key}/exact"]
  wrong:
    matrix: {who: [tiny], what: [a, b]}
    cmd: python -m stages.train ${item.who}
    deps: [stages/train.py, distill/loss, distill/gone.py]
    outs:
      - runs/${item.who}/${item.what}:
          persist: true
  shell:
    cmd: echo hello
""",
        },
    )
    Repo.init(str(tmp_path), no_scm=True).close()
    stages = {stage.name: stage for stage in read_pipeline(tmp_path)}
    assert set(stages) == {"exact@tiny", "exact@small", "wrong@tiny-a", "wrong@tiny-b", "shell"}
    assert stages["exact@tiny"].params == (("params.yaml", "students.tiny.lr"),)
    assert stages["exact@small"].outs == ("runs/small/exact",)
    assert stages["wrong@tiny-a"].persisted == ("runs/tiny/a",)
    assert dependency_faults(stages["exact@tiny"], tmp_path) == []
    assert dependency_faults(stages["wrong@tiny-b"], tmp_path) == [
        "wrong: add    - distill/data/rows.py",
        "wrong: remove - distill/loss  (it never imports distill/loss/other.py)",
        "wrong: remove - distill/gone.py  (there is no such file)",
    ]
    assert "must be `python -m stages.<file> ...`" in dependency_faults(stages["shell"], tmp_path)[0]
