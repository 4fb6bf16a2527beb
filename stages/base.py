"""DVC stage: the model a teacher or student starts from.

A model taken from somewhere is only pointed to. One that is cut from another is written whole, a fresh one is
initialised, and both are pretrained on the corpus if the profile says so.

    python -m stages.base <family|student>
"""

from __future__ import annotations

import argparse
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from distill.models.settings import ModelSettings, PretrainSettings
from distill.project.errors import run_stage
from distill.project.files import fresh_dir, write_json
from distill.project.randomness import key, rng
from distill.text.examples import Example, read_documents

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from distill.project.references import ModelReference
    from stages.experiment import Experiment


def main() -> None:
    """Write runs/<who>/base."""
    from distill.conversion.cut import cut, layer_count
    from distill.generation.probe import require_decodable, tell_slowness
    from distill.models.checkpoints import RunRecord, save_checkpoint
    from distill.models.loading import initialise_model
    from stages.experiment import read_experiment
    from stages.first_look import take

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("who", help="a family (its teacher's base) or a student")
    experiment = read_experiment(parser.parse_args().who, "base")
    settings = experiment.optional_settings(ModelSettings, "model")
    record, tokenizer = RunRecord(), experiment.tokenizer()
    model = None
    if settings is not None and settings.source is not None:
        model = load_source(experiment, settings.source)
    elif settings is not None:
        assert settings.init is not None  # the settings hold exactly one of the two
        model = initialise_model(settings.init, tokenizer, key(experiment.seed, "weights", experiment.who) % 2**32)
        tell_slowness(experiment.who, require_decodable(model))
    if settings is None or model is None:
        point_to(experiment, None)
    elif settings.source is not None and not settings.is_cut:
        point_to(experiment, settings.source)
    else:
        if settings.is_cut:
            model = cut(model, settings.kept_layers(layer_count(model)))
        if settings.pretrain is not None:
            pretrain(experiment, model, settings, settings.pretrain)
        save_checkpoint(model, tokenizer, experiment.output, experiment.meta(settings))
    # Random weights that nothing pretrains are known to be random.
    random = settings is not None and settings.source is None and settings.pretrain is None
    looked = {} if model is None or random else {"first_look": asdict(take(experiment, model))}
    record.write(Path(f"{experiment.output}.run.json"), **looked)
    shutil.rmtree(Path(".resume") / experiment.name, ignore_errors=True)


def load_source(experiment: Experiment, source: ModelReference) -> PreTrainedModel:
    """The model from elsewhere, after all that can be wrong with it was looked at.

    Raises: ModelError; seconds of loading now, rather than a failure after the teacher's hours.
    """
    from distill.generation.probe import require_decodable, tell_slowness
    from distill.models.loading import load_model
    from distill.models.parts import require_vocabulary
    from distill.text.tokenizers import load_tokenizer, require_same_tokenizer

    tokenizer = experiment.tokenizer()
    require_same_tokenizer(tokenizer, load_tokenizer(source), experiment.some_texts())
    model = load_model(source, experiment.dtype)
    require_vocabulary(model, tokenizer, str(source))
    tell_slowness(str(source), require_decodable(model))
    return model


def point_to(experiment: Experiment, source: ModelReference | None) -> None:
    """Write a pointer to the model; to none where all of this student's, or the teacher's, come finished."""
    from distill.models.checkpoints import copy_tokenizer
    from distill.models.origins import REFERENCE_FILE

    with fresh_dir(experiment.output) as aside:
        write_json(aside / REFERENCE_FILE, None if source is None else source.model_dump())
        copy_tokenizer(experiment.data / "tokenizer", aside)


def pretrain(experiment: Experiment, model: PreTrainedModel, settings: ModelSettings, wanted: PretrainSettings) -> None:
    """Train the model on windows of the family's corpus, in place."""
    from distill.objectives import sft
    from distill.prompting.control_tokens import encode_documents
    from distill.runs.evidence import Evidence
    from distill.training.settings import SupervisedSettings
    from distill.training.supervised import Lesson, train_supervised

    tokenizer, corpus = experiment.tokenizer(), experiment.data / "corpus.parquet"
    ids = encode_documents(tokenizer, read_documents(corpus))
    examples = windows(ids, tokenizer.eos_token_id, wanted, experiment.seed)
    scratch = Path(".resume") / experiment.name / experiment.fingerprint(settings, corpus)
    settings_of_training = SupervisedSettings(
        learning_rate=wanted.learning_rate,
        batch_size=wanted.batch_size,
        epochs=1,
        warmup_steps=wanted.steps // 20,
    )
    lesson = Lesson(experiment.name, examples, settings_of_training, sft, experiment.seed)
    with Evidence(experiment.name, tokenizer):
        train_supervised(model, lesson, experiment.hardware.in_one_process(), scratch)


def windows(documents: list[list[int]], eos_id: int, pretrain: PretrainSettings, seed: int) -> list[Example]:
    """`steps * batch_size` windows of the corpus at keyed places; every token but the first is predicted."""
    stream = [token for document in documents for token in (*document, eos_id)]
    random = rng(seed, "pretraining windows")
    length = min(pretrain.sequence_length, len(stream) - 1)
    starts = [random.randrange(len(stream) - length) for _ in range(pretrain.steps * pretrain.batch_size)]
    pieces = [stream[start : start + length] for start in starts]
    return [Example(i, piece[:1], piece[1:], "") for i, piece in enumerate(pieces)]


if __name__ == "__main__":
    run_stage(main)
