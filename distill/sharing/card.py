"""A model card in the hub's format: the model, its training, its scores, and the versions it was made from."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distill.scoring.names import TEACHER, label
from distill.scoring.spread import with_spread
from distill.sharing.ancestry import Ancestor
from distill.text.words import rouge_name

# Markdown in a prompt template may hold three backticks, hardly four tildes.
_FENCE = "~~~~"


@dataclass(frozen=True)
class CardOrigin:
    """The facts of a card, all as the stages left them."""

    student: str
    method: str
    """A method, or `teacher`; then `student` is the family."""
    note: str
    """`recipe.note` of the profile."""
    ancestor: Ancestor | None
    """The model its weights go back to; None for random weights."""
    meta: Mapping[str, Any]
    """meta.json of the checkpoint."""
    run: Mapping[str, Any]
    """The run record beside the checkpoint; empty where there is none."""
    results: Mapping[str, Any]
    """results/<student>.json; empty where nothing was evaluated."""
    data: Mapping[str, Any]
    """`recipe.data` of the profile."""
    sets: Mapping[str, Mapping[str, Any]]
    """Evaluation set → its description."""
    sampling: Mapping[str, Any]
    """Decoding settings of the evaluation."""
    taken: bool = False
    """Whether it was taken finished from elsewhere (`from`), and nothing was trained."""
    cut: str = ""
    """The layers of its ancestor that it kept or lost, as the profile says it; empty for all."""
    data_licence: str = "not stated"
    """The licence of the training rows."""

    @property
    def name(self) -> str:
        """The name of the model."""
        return f"{self.student}-{self.method}"


def write_card(origin: CardOrigin) -> str:
    """The content of README.md: front matter that the hub reads, then text for people."""
    parts = [
        f"---\n{front_matter(origin)}\n---",
        f"# {origin.name}",
        _opening(origin),
        "## Use",
        _usage(origin),
        "## Results",
        _results(origin),
        "## Training",
        _training(origin),
        "## Provenance",
        _provenance(origin),
    ]
    return "\n\n".join(parts) + "\n"


def front_matter(origin: CardOrigin) -> str:
    """The hub's YAML: task, tags, base model and the metrics as its model index."""
    from huggingface_hub import EvalResult, ModelCardData

    found = [
        EvalResult(
            task_type="text-generation",
            dataset_type=name,
            dataset_name=name,
            metric_type="rougeL",
            metric_name=rouge_name(cell["rouge_l"].get("words")),
            metric_value=cell["rouge_l"]["mean"],
        )
        for name, cell in _cells(origin, origin.method).items()
    ]
    data = ModelCardData(
        model_name=origin.name,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["knowledge-distillation", origin.method],
        base_model=None if origin.ancestor is None else origin.ancestor.hub,
        license=_front_licence(origin.ancestor),
        eval_results=found or None,
    )
    return str(data.to_yaml()).strip()


def _front_licence(ancestor: Ancestor | None) -> str | None:
    """The base model's licence where it is a name that the hub knows the form of."""
    stated = "" if ancestor is None else ancestor.licence
    return stated if re.fullmatch(r"[a-z0-9.+-]+", stated) else None


def _opening(origin: CardOrigin) -> str:
    who = f"The student `{origin.student}`, trained by **{label(origin.method, origin.meta)}**"
    if origin.method == TEACHER:
        who = f"The teacher of the family `{origin.student}`, trained by **SFT**"
    source = "random ones" if origin.ancestor is None else origin.ancestor.told()
    sentence = f"{who}; its weights go back to {source}{origin.cut and f', cut by {origin.cut}'}."
    if origin.taken:
        role = "teacher" if origin.method == TEACHER else f"model for `{origin.method}`"
        sentence = f"The {role} of `{origin.student}`, taken as it is from {source}; nothing was trained here."
    lines = [
        sentence,
        "Made by distill-pipeline, which distils language models by MiniLLM "
        "([arXiv 2306.08543](https://arxiv.org/abs/2306.08543)) beside SFT, KD and SeqKD.",
    ]
    if origin.note:
        lines.append(f"**{origin.note[0].upper()}{origin.note[1:]}.**")
    return "\n".join(lines)


def _usage(origin: CardOrigin) -> str:
    prompt = origin.meta["prompt"]
    sampling = ", ".join(f"{name} {value}" for name, value in origin.sampling.items())
    sequence = prompt.get("max_sequence_tokens")
    rows = "" if sequence is None else f"; rows of training data of at most {sequence}, prompt and response together"
    wrapped = (
        "\nEach is one user turn of the tokenizer's chat template (`apply_chat_template`)."
        if prompt.get("chat_template")
        else ""
    )
    return (
        "`AutoModelForCausalLM.from_pretrained` and `AutoTokenizer.from_pretrained` load this folder, and so does "
        f"`vllm serve`. It was {'asked in' if origin.taken else 'trained on'} prompts of these two forms, without and "
        f"with an input:{wrapped}\n\n"
        f"{_fenced(prompt['without_input'])}\n\n{_fenced(prompt['with_input'])}\n\n"
        f"Prompts of at most {prompt['max_prompt_tokens']} tokens, answers of at most {prompt['max_response_tokens']}"
        f"{rows}. "
        f"`generation_config.json` holds the decoding of the evaluation below: {sampling}."
    )


def _fenced(text: str) -> str:
    return f"{_FENCE}\n{text.rstrip()}\n{_FENCE}"


def _cells(origin: CardOrigin, model: str) -> dict[str, Mapping[str, Any]]:
    """The evaluation sets on which a model was scored."""
    found = origin.results.get(model, {})
    return {name: found[name] for name in origin.sets if "rouge_l" in found.get(name, {})}


def _results(origin: CardOrigin) -> str:
    own, teacher = _cells(origin, origin.method), _cells(origin, TEACHER)
    if not own:
        return f"`{origin.method}` was not evaluated."
    words = next(iter({cell["rouge_l"].get("words") for cell in own.values()} - {None}), None)
    lines = [f"| | {rouge_name(words)} | 95 % interval | teacher's | exact match, % |", "|---|---:|---:|---:|---:|"]
    for name, cell in own.items():
        score = cell["rouge_l"]
        low, high = score["ci95"]
        above = f"{teacher[name]['rouge_l']['mean']:.1f}" if name in teacher else "–"
        exact = f"{cell['exact_match']['mean']:.1f}" if "exact_match" in cell else "–"
        lines.append(f"| {name} | {with_spread(score, 1)} | {low:.1f} to {high:.1f} | {above} | {exact} |")
    several = any(len(cell["rouge_l"].get("per_seed", ())) > 1 for cell in own.values())
    lines.append(
        ("\nMean ± standard deviation over sampling seeds" if several else "\nOf one sampling seed")
        + "; the interval is a bootstrap over prompts and seeds, for this "
        "one trained model. Training again with another seed moves the numbers too.\n"
    )
    lines += [
        f"- `{name}`: {' '.join(str(origin.sets[name].get('description', '')).split())} "
        f"Licence: {origin.sets[name].get('licence', 'not stated')}."
        for name in own
    ]
    return "\n".join(lines)


def _training(origin: CardOrigin) -> str:
    if origin.taken:
        stated = origin.ancestor.licence if origin.ancestor else "not stated"
        return f"None in this pipeline. Licence of the model: {stated}."
    chosen = {name: origin.meta[name] for name in ("rows", "best_step", "best_valid_rouge_l") if name in origin.meta}
    settings = {**origin.meta["settings"], **chosen, "seed": origin.meta["seed"]}
    rows = "\n".join(f"| `{name}` | {json.dumps(value)} |" for name, value in settings.items())
    return (
        f"| setting | |\n|---|---|\n{rows}\n\n"
        f"Licence of the {'base model' if origin.ancestor else 'weights'}: "
        f"{origin.ancestor.licence if origin.ancestor else 'yours to choose'}; of the training rows: "
        f"{origin.data_licence}.\n\n"
        f"Data, as the recipe says it:\n\n{_fenced(json.dumps(origin.data, indent=1, ensure_ascii=False))}"
    )


def _provenance(origin: CardOrigin) -> str:
    told = {f"{name} version": version for name, version in origin.meta.get("versions", {}).items()}
    told |= {
        name.replace("_", " "): origin.run[name]
        for name in ("code_revision", "device", "python", "seconds", "threads")
        if origin.run.get(name) is not None
    }
    return "\n".join(f"- {name}: {value}" for name, value in told.items())
