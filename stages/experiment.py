"""What every model stage needs to know, read once: whose run it is, its profile, its folders, its machine."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from distill.generation.settings import EvaluationSettings
from distill.generation.validation import Validation
from distill.models.checkpoints import library_versions
from distill.models.loading import load_model, quiet_libraries
from distill.models.settings import Dtype
from distill.parallel.processes import ALONE, Processes, device
from distill.project.files import sha256_file, sha256_tree
from distill.project.settings import S, Settings, lookup, parse, section
from distill.project.table import PARAMS, family_of, profile_path, read_profile, read_table
from distill.runs.hardware import HardwareSettings
from distill.runs.limits import RowLimits
from distill.runs.resume import fingerprint
from distill.text.examples import read_examples, read_words
from distill.text.settings import PromptSettings
from distill.text.tokenizers import load_tokenizer

_COMPARED_ROWS = 200


@dataclass(frozen=True)
class Experiment:
    """A stage's view of the table and of one family's profile."""

    who: str
    what: str
    family: str
    profile: Path
    seed: int
    dtype: Dtype
    prompt: PromptSettings
    evaluation: EvaluationSettings
    hardware: HardwareSettings
    content: dict[str, Any]
    """The profile as it is written, read once."""

    @property
    def name(self) -> str:
        """DVC's name of the stage."""
        block = "teacher_base" if (self.what, self.who) == ("base", self.family) else self.what
        return f"{block}@{self.who}"

    @property
    def data(self) -> Path:
        """The family's prepared data."""
        return Path("data") / self.family

    @property
    def output(self) -> Path:
        """The checkpoint this stage writes."""
        return Path("runs") / self.who / self.what

    @property
    def teacher(self) -> Path:
        """The family's finished teacher."""
        return Path("runs") / self.family / "teacher"

    @property
    def recipe(self) -> str:
        """Where this stage's own settings stand in the profile."""
        if self.who == self.family:
            return "recipe.teacher"
        return f"recipe.students.{self.who}"

    @property
    def section(self) -> str:
        """The name of this stage's own settings there."""
        return "sft" if self.what == "teacher" else self.what

    def settings(self, model: type[S], name: str | None = None) -> S:
        """Read the stage's section of the profile, or the section `name` beside it."""
        place = f"{self.recipe}.{name or self.section}"
        return parse(lookup(self.content, place, self.profile), model, f"{self.profile}: {place}")

    def optional_settings(self, model: type[S], name: str) -> S | None:
        """As `settings`, None where the section is null."""
        content = lookup(self.content, f"{self.recipe}.{name}", self.profile)
        return None if content is None else self.settings(model, name)

    def meta(self, settings: Settings) -> dict[str, object]:
        """What the weights follow from, for the checkpoint's meta.json."""
        return {
            "who": self.who,
            "what": self.what,
            "seed": self.seed,
            "settings": settings.model_dump(mode="json"),
            "prompt": self.prompt.model_dump(mode="json"),
        }

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer that the family shares."""
        return load_tokenizer(self.data / "tokenizer")

    def some_texts(self) -> list[str]:
        """The first training rows, as texts to compare tokenizers on."""
        columns = ["instruction", "input", "output"]
        table = pq.read_table(self.data / "train.parquet", columns=columns).slice(0, _COMPARED_ROWS)
        return ["\n".join(row[name] for name in columns) for row in table.to_pylist()]

    def load(self, folder: Path) -> PreTrainedModel:
        """A model in the recipe's precision on this process's device."""
        model = load_model(folder, self.dtype)
        torch.nn.Module.to(model, device())
        return model

    def load_teacher(self) -> PreTrainedModel:
        """The teacher to learn from, in the precision that the machine's settings give it."""
        model = load_model(self.teacher, self.hardware.teacher.dtype or self.dtype)
        torch.nn.Module.to(model, device())
        return model

    def validation(self, tokenizer: PreTrainedTokenizerBase, processes: Processes = ALONE) -> Validation:
        """The validation split with the decoding of the final evaluation (trap 11)."""
        return Validation(
            read_examples(self.data / "valid.parquet"),
            tokenizer,
            self.evaluation.sampling,
            self.prompt.max_response_tokens,
            self.hardware.decode_batch,
            self.seed,
            processes,
            read_words(self.data / "valid.parquet"),
        )

    @property
    def rows(self) -> RowLimits:
        """How many training rows the teacher and the students see."""
        data = lookup(self.content, "recipe.data", self.profile)
        return parse(data.get("rows") or {}, RowLimits, f"{self.profile}: recipe.data.rows")

    def identity(self, settings: object, *inputs: Path) -> dict[str, str]:
        """What another run must share with this one to be continued by it, and what all its processes must share."""
        shared = (self.seed, self.dtype, self.prompt, self.rows, self.evaluation.sampling)
        return {
            f"{self.profile}: {self.recipe}": f"{settings} {shared}",
            **{str(path): sha256_tree(path) for path in inputs},
            **{str(path): sha256_file(path) for path in sorted(Path("distill").rglob("*.py"))},
            "the versions of the libraries": str(library_versions()),
        }

    def fingerprint(self, settings: object, *inputs: Path) -> str:
        """A short hash of the `identity`."""
        return fingerprint(self.identity(settings, *inputs))


def read_experiment(who: str, what: str) -> Experiment:
    """Read what `who` (a student or a family) and `what` stand for, and set up this process for it.

    Raises: SettingsError for unknown names and bad settings.
    """
    table = read_table()
    family = family_of(who, table)
    profile = profile_path(family)
    content = read_profile(family)
    hardware = parse(content.get("hardware") or {}, HardwareSettings, f"{profile}: hardware")
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed warns that it had to guess
    quiet_libraries()
    return Experiment(
        who=who,
        what=what,
        family=family,
        profile=profile,
        seed=table.seed,
        dtype=lookup(content, "recipe.dtype", profile),
        prompt=parse(lookup(content, "recipe.prompt", profile), PromptSettings, f"{profile}: recipe.prompt"),
        evaluation=section(PARAMS, "evaluation", EvaluationSettings),
        hardware=hardware,
        content=content,
    )
