"""MiniLLM runs of one student in this process: trained, answered and scored by the functions that the stages call.

Three stages would start three processes for a run and import torch in each; here models and data are read once for
many runs. A test checks that both give the same numbers.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Literal

from transformers import PreTrainedModel

from distill.evaluation import answer_sheet
from distill.evaluation.divergence import sample, trace
from distill.evaluation.respond import respond
from distill.evaluation.resumable import FinishedResponses, Sampled
from distill.objectives.minillm.objective import MiniLLM
from distill.objectives.minillm.settings import MiniLLMSettings
from distill.on_policy.loop import Execution, OnPolicyRun, Task
from distill.on_policy.plaintext import token_stream
from distill.project.errors import TrainingError
from distill.project.files import read_jsonl, sha256_file, write_jsonl
from distill.project.settings import lookup, parse, read_yaml
from distill.scoring import scores
from distill.text.examples import Example, read_documents, read_examples
from distill.text.tokenizers import id_count
from stages.experiment import read_experiment

Prompts = Literal["all", "long"]
LONG_TOKENS = 20
"""The tokens from which a reference response counts as long."""


@dataclass(frozen=True)
class ToyOutcome:
    """The outcome of one run. *Tested* is the best checkpoint by validation Rouge-L; the start is one of them."""

    valid: list[float]
    """Validation Rouge-L of the start and at each validation."""
    best_step: int
    """The optimiser step of the tested checkpoint."""
    test: float
    """Rouge-L on the test set, mean of the evaluation's sampling seeds."""
    test_long: float
    """Rouge-L over the prompts whose reference has `LONG_TOKENS` tokens or more."""
    tokens: float
    """Mean length of the answers to the test set."""
    tokens_std: float
    """Standard deviation of their lengths."""
    repeated: float
    """Share of repeated 4-grams in them, per cent."""
    kl: float
    """Reverse KL of the tested model's own answers to the validation prompts, nats a token."""
    kl_answer: float
    """This reverse KL in nats an answer."""
    last_kl: float
    """As `kl`, of the last weights."""
    last_tokens: float
    """Mean length of the last weights' answers to the validation prompts."""
    rollout_kl: float
    """Reverse KL of the last collection's rollouts, which come from the mixture."""
    collapse: str
    """The first sign of collapse, empty in a healthy run."""
    seconds: float
    """CPU time of all of it."""


class Unkept(FinishedResponses):
    """A store of responses that keeps nothing on the disk."""

    def __init__(self) -> None:
        """None is finished."""
        self.found: dict[int, Sampled] = {}

    def add(self, batch: dict[int, Sampled]) -> None:
        """Remember a batch for this process."""
        self.found.update(batch)


class ToyRuns:
    """Data, tokenizer and teacher of a student, read once from the current folder; `make repro` makes them."""

    def __init__(self, who: str = "tiny", method: str = "minillm", test: str = "toy_id") -> None:
        """`method` is the section of the profile that runs start from, `test` the set that is answered."""
        self.experiment = read_experiment(who, method)
        self.test = test
        self.section = lookup(
            read_yaml(self.experiment.profile), f"{self.experiment.recipe}.{method}", self.experiment.profile
        )
        self.tokenizer = self.experiment.tokenizer()
        self.eos_id = int(str(self.tokenizer.eos_token_id))
        self.teacher = self.experiment.load_teacher()
        self.train = read_examples(self.experiment.data / "train.parquet", self.experiment.rows.student)
        self.valid = read_examples(self.experiment.data / "valid.parquet")
        self.plain_text = token_stream(
            self.tokenizer(read_documents(self.experiment.data / "corpus.parquet"))["input_ids"], self.eos_id
        )

    def settings(self, changes: dict[str, Any]) -> MiniLLMSettings:
        """The profile's settings with `changes`."""
        return parse({**self.section, **changes}, MiniLLMSettings, "an arm")

    def inputs(self) -> str:
        """A digest of the inputs of all runs: data, teacher, start and base."""
        runs, data = Path("runs") / self.experiment.who, self.experiment.data
        models = (self.experiment.teacher, runs / "base", runs / "init")
        files = [data / "train.parquet", data / "valid.parquet", *(model / "model.safetensors" for model in models)]
        return hashlib.sha256("".join(map(sha256_file, files)).encode()).hexdigest()[:12]

    def run(self, settings: MiniLLMSettings, start: Path, seed: int, prompts: Prompts = "all") -> ToyOutcome:
        """Train from `start` on the student's prompts, or the long ones alone, and answer the test set."""
        began = time.process_time()
        hardware = self.experiment.hardware
        experiment = replace(self.experiment, seed=seed)
        faults: list[str] = []
        last: list[tuple[float, float]] = []

        def after_step(run: OnPolicyRun) -> None:
            if run.step == settings.max_steps != run.validations.kept.step:
                last.append(self.divergence(run.student))

        run = OnPolicyRun(
            experiment.load(start),
            self.teacher,
            Task(
                [e.prompt_ids for e in self.train if prompts == "all" or is_long(e)],
                experiment.prompt.max_response_tokens,
                self.eos_id,
                self.plain_text if settings.lm_coef else None,
            ),
            MiniLLM(),
            settings,
            Execution(min(hardware.largest_micro_batch(), settings.minibatch), hardware.decode_batch),
            seed,
            experiment.validation(self.tokenizer),
            lambda fault: faults.append(str(fault)),
        )
        try:
            run.train(after_step)
        except TrainingError as fault:  # not a number any more: keep the best weights so far
            faults.append(str(fault))
            run.engine.finish(run.best_weights)
        kl, kl_answer = self.divergence(run.student)
        return ToyOutcome(
            valid=[value for _, value in run.curves.points["valid_rouge_l"]],
            best_step=run.validations.kept.step,
            **self.scores(run.student),
            kl=_rounded(kl),
            kl_answer=_rounded(kl_answer),
            last_kl=_rounded(last[0][0] if last else kl),
            last_tokens=run.curves.points["valid_response_tokens"][-1][1],
            rollout_kl=run.curves.points["reverse_kl"][-1][1],
            collapse=faults[0].partition(";")[0] if faults else "",
            seconds=round(time.process_time() - began, 1),
        )

    def divergence(self, model: PreTrainedModel) -> tuple[float, float]:
        """Reverse KL of one own answer to each validation prompt: nats a token, nats an answer."""
        ids = [example.prompt_ids for example in self.valid]
        batch = self.experiment.hardware.decode_batch
        drawn = sample(
            model,
            ids,
            0,
            max_new_tokens=self.experiment.prompt.max_response_tokens,
            eos_id=self.eos_id,
            batch_size=batch,
            vocabulary=id_count(self.tokenizer),
        )
        answers, states = [response.ids for response in drawn], [response.hidden for response in drawn]
        traces = trace(model, self.teacher, "own", ids, 0, answers, batch, states)
        nats = [sum(each.reverse_kl) for each in traces]
        return sum(nats) / sum(map(len, answers)), fmean(nats)

    def scores(self, model: PreTrainedModel) -> dict[str, float]:
        """The test set's part of an `Outcome`."""
        experiment, references = self.experiment, Path("evaluation") / f"{self.test}.jsonl"
        rows = read_jsonl(references)
        answered = respond(
            model,
            self.tokenizer,
            experiment.prompt,
            rows,
            experiment.evaluation,
            self.test,
            experiment.hardware.decode_batch,
            Unkept(),
        )
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "answers.jsonl"
            write_jsonl(path, answered)
            sheet = answer_sheet.read(path, references)
        found = scores.score_answers(sheet)
        first = self.tokenizer([own[0] for own in sheet.references])["input_ids"]
        places = [i for i, ids in enumerate(first) if len(ids) >= LONG_TOKENS]
        long = [row[i] for row in found["per_example"] for i in places]
        return {
            "test": found["rouge_l"]["mean"],
            "test_long": _rounded(fmean(long)) if long else 0.0,
            "tokens": found["response_tokens"]["mean"],
            "tokens_std": _rounded(stdev([row["tokens"] for row in answered])),
            "repeated": found.get("repeated_4", {"mean": 0.0})["mean"],
        }


def is_long(example: Example) -> bool:
    """Whether the reference response is long, without its end-of-sequence token."""
    return len(example.response_ids) > LONG_TOKENS


def _rounded(value: float) -> float:
    return round(value, 4)
