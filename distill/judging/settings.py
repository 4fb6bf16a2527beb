"""Settings of models asked over the network: the judge of `params.yaml`, and a server in place of the teacher.

Three groups: the answers' dependencies, the budget, and the connection to the server.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import SplitResult, urlsplit

from pydantic import Discriminator, Field, Tag, field_validator, model_validator

from distill.generation.settings import PseudoSettings
from distill.project.errors import SettingsError
from distill.project.seeds import Seeds
from distill.project.settings import Settings

KEY_VARIABLE = "OPENAI_API_KEY"
NO_KEY = f"export {KEY_VARIABLE} (any word for a server that wants none)"

Thinking = Literal["strip", "keep"]


class ChatSettings(Settings):
    """The model that answers; a kept reply is used again only under equal settings."""

    model: Annotated[str, Field(min_length=1)]
    """The server's name of the model; a dated one stays the same model."""
    base_url: str = "https://api.openai.com/v1"
    """Any server that speaks OpenAI's chat completions, e.g. `http://127.0.0.1:8000/v1`."""
    max_tokens: Annotated[int, Field(ge=1)] = 256
    """Longest reply; with the prompt it bounds the cost of a call."""
    token_limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The field that carries this limit: OpenAI's reasoning models know only the second."""
    attempts: Annotated[int, Field(ge=1)] = 3
    """Useless replies to a request before it is given up."""

    @field_validator("base_url")
    @classmethod
    def _address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname or not _is_port(parts) or parts.fragment:
            raise ValueError("must be an address like http://127.0.0.1:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError(f"must hold no key or password; {NO_KEY}")
        return value


def _is_port(parts: SplitResult) -> bool:
    try:
        return parts.port != 0
    except ValueError:
        return False


class ProtocolSettings(ChatSettings):
    """All settings that a verdict depends on. The defaults follow the paper (§3.1, B.2) where it is specific."""

    prompt: str = "judge/prompt.txt"
    """File with {question}, {first} and {second}; the paper's own was not published with its code."""
    temperature: Annotated[float, Field(ge=0, le=2)] | None = 0.7
    """null sends none, for models that refuse it."""
    orders: Literal["both", "response_first", "reference_first"] = "both"
    """`both` asks twice and takes the mean, so that a liking for the first place cancels; twice the price."""
    structured: bool = True
    """Ask for JSON of a given schema; a server that refuses that is asked without it."""
    seeds: Seeds | None = None
    """The judged ones of `evaluation.seeds`; null judges all."""
    limit: Annotated[int, Field(ge=1)] | None = None
    """The number of examples judged, from the first of a set; null judges all."""


class BudgetSettings(Settings):
    """The budget, over all purchases in `.judge/`; a run continues when a limit is raised."""

    dry_run: bool = False
    """Ask nothing; print calls, tokens and cost."""
    max_calls: Annotated[int, Field(ge=0)] | None = None
    """Most replies to buy; lost ones count, requests that the server turned away do not."""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """US$; a call that could exceed it, its longest reply included, is not made."""
    input_price: Annotated[float, Field(ge=0)] | None = None
    """US$ a million tokens of prompts."""
    output_price: Annotated[float, Field(ge=0)] | None = None
    """US$ a million tokens of replies."""

    @model_validator(mode="after")
    def _prices(self) -> BudgetSettings:
        if (self.input_price is None) != (self.output_price is None):
            raise ValueError("give both `input_price` and `output_price`, or neither")
        if self.max_cost is not None and self.input_price is None:
            raise ValueError("`max_cost` needs `input_price` and `output_price`")
        return self


class ServerSettings(Settings):
    """The connection to the server; it changes no answer."""

    concurrency: Annotated[int, Field(ge=1, le=256)] = 8
    """Calls under way at once."""
    timeout: Annotated[float, Field(gt=0)] = 60.0
    """Seconds for a whole call, to the last byte of the answer; then it counts as lost."""
    retries: Annotated[int, Field(ge=0)] = 5
    """More tries of a call that was lost or turned away (429, 5xx)."""
    first_wait: Annotated[float, Field(ge=0)] = 1.0
    """Seconds before the first of these tries; doubles each time. A `Retry-After` of the server overrides it."""
    longest_wait: Annotated[float, Field(ge=0)] = 60.0
    """Longest pause in seconds; if a server asks for more, the command stops and keeps its replies."""
    give_up_after: Annotated[int, Field(ge=1)] = 10
    """Requests in a row without a reply, or replies in a row without use, until the command stops."""


class JudgeSettings(Settings):
    """`judge` in params.yaml."""

    enabled: bool = False
    """The switch; DVC itself sees `datasets`, and commands.check holds the two together."""
    datasets: tuple[str, ...] = ()
    """Evaluation sets to judge; without any, DVC has no judging stage."""
    protocol: ProtocolSettings
    budget: BudgetSettings = BudgetSettings()
    server: ServerSettings = ServerSettings()


class LocalPseudoSettings(PseudoSettings):
    """`recipe.pseudo` where the family's own teacher answers."""

    source: Annotated[Literal["teacher"], Field(alias="from")] = "teacher"
    """The family's teacher."""


class ApiPseudoSettings(PseudoSettings, ChatSettings):
    """`recipe.pseudo` where a server answers in the teacher's place: black-box distillation by SeqKD."""

    source: Annotated[Literal["api"], Field(alias="from")]
    """Any OpenAI-compatible server."""
    thinking: Thinking = "strip"
    """`keep` lets the students learn the thinking before an answer too, between `<think>` and `</think>`."""
    budget: BudgetSettings = BudgetSettings()
    server: ServerSettings = ServerSettings()

    @model_validator(mode="after")
    def _no_top_k(self) -> ApiPseudoSettings:
        if self.sampling.top_k:
            raise ValueError("`sampling.top_k` is not part of the protocol these servers speak; leave it at 0")
        return self


def _origin(content: Any) -> Any:
    return content.get("from", "teacher") if isinstance(content, dict) else getattr(content, "source", None)


Pseudo = Annotated[
    Annotated[LocalPseudoSettings, Tag("teacher")] | Annotated[ApiPseudoSettings, Tag("api")],
    Discriminator(_origin, custom_error_type="from", custom_error_message="`from` must be `teacher` or `api`"),
]


class PseudoSection(Settings):
    """The one section of a recipe that stages/pseudo.py reads."""

    pseudo: Pseudo | None


def has_key(environment: Mapping[str, str]) -> bool:
    """Whether the environment holds a key."""
    return bool(environment.get(KEY_VARIABLE, "").strip())


def read_key(environment: Mapping[str, str]) -> str:
    """The key; empty without one. Raises: SettingsError for one that no request can carry."""
    if fault := key_fault(environment):
        raise SettingsError(fault)
    return environment.get(KEY_VARIABLE, "").strip()


def key_fault(environment: Mapping[str, str]) -> str | None:
    """A sentence about a key with characters that the header of a request cannot carry."""
    key = environment.get(KEY_VARIABLE, "").strip()
    if all("!" <= character <= "~" for character in key):
        return None
    return (
        f"{KEY_VARIABLE} holds a blank, a line break or a letter outside ASCII, which no key has; "
        "export the key anew, as the server's page shows it"
    )


def judge_faults(
    judge: JudgeSettings, datasets: Collection[str], seeds: Collection[int], environment: Mapping[str, str]
) -> list[str]:
    """Faults of the judge's section against the rest: unknown sets and seeds, a switch without sets, no key."""
    faults = []
    if judge.enabled and not judge.datasets:
        faults.append("judge.enabled is true but judge.datasets is empty; name evaluation sets there")
    if judge.datasets and not judge.enabled:
        faults.append("judge.datasets names sets but judge.enabled is false; set it to true or empty the list")
    if unknown := [name for name in judge.datasets if name not in datasets]:
        faults.append(
            f"judge.datasets: {', '.join(unknown)} is not in datasets; the names there: {', '.join(datasets)}"
        )
    if twice := [name for name, times in Counter(judge.datasets).items() if times > 1]:
        faults.append(f"judge.datasets: {', '.join(twice)} stands there twice; keep one")
    if strange := [str(seed) for seed in judge.protocol.seeds or () if seed not in seeds]:
        faults.append(f"judge.protocol.seeds: {', '.join(strange)} is not in evaluation.seeds; take some of those")
    if judge.enabled and not judge.budget.dry_run:
        if not has_key(environment):
            faults.append(f"judge.enabled is true but there is no key; {NO_KEY}, or set judge.enabled: false")
        elif fault := key_fault(environment):
            faults.append(fault)
    return faults


def pseudo_faults(pseudo: Pseudo | None, environment: Mapping[str, str]) -> list[str]:
    """Faults of `recipe.pseudo` against the environment: no key for the server."""
    if pseudo is None or isinstance(pseudo, LocalPseudoSettings) or pseudo.budget.dry_run:
        return []
    if has_key(environment):
        return [] if (fault := key_fault(environment)) is None else [fault]
    return [f"recipe.pseudo takes responses from {pseudo.base_url} but there is no key; {NO_KEY}"]
