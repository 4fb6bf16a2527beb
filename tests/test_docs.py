"""What the pages print works where they put it."""

from __future__ import annotations

import json
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from distill.data.settings import DataSettings
from distill.judging.settings import JudgeSettings, ProtocolSettings, PseudoSection
from distill.project.errors import SettingsError
from distill.project.settings import Settings, read_yaml
from distill.runs.hardware import HardwareSettings
from distill.text.settings import PromptSettings, TokenizerSettings

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(path.relative_to(ROOT) for path in [ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
_BLOCK = re.compile(r"```yaml\n(.*?)```", re.DOTALL)
_INLINE = re.compile(r"`([\w.]+: [^`\n]+)`")
_SECTIONS: dict[str, type[Settings]] = {
    "hardware": HardwareSettings,
    "judge": JudgeSettings,
    "data": DataSettings,
    "prompt": PromptSettings,
    "tokenizer": TokenizerSettings,
}


def blocks(page: Path) -> list[str]:
    return [_filled(text) for text in _BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))]


def _filled(text: str) -> str:
    """Places that a reader fills in, filled in."""
    text = re.sub(r"^\s*…\n", "", text, flags=re.MULTILINE).replace("…", "x")
    return re.sub(r"<\d+ digits>", "0" * 40, text).replace("<its name there>", "qwen2.5")


def _anchors_of(text: str) -> str:
    """The anchors that a block takes from elsewhere in its file."""
    absent = set(re.findall(r"[ \[]\*(\w+)", text)) - set(re.findall(r"&(\w+)", text))
    return "".join(f"_{name}: &{name} {{}}\n" for name in sorted(absent))


def load(text: str) -> Any:
    return YAML(typ="safe").load(text)


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=str)
def test_a_printed_block_is_read_with_its_sections(page: Path) -> None:
    for block in blocks(page):
        own = load(_anchors_of(block) + textwrap.dedent(block))
        inner = own.pop("recipe", {})
        for name, content in {**own, **inner}.items():
            if name == "pseudo":
                PseudoSection.model_validate({"pseudo": content})
            elif name in _SECTIONS:
                _SECTIONS[name].model_validate(content)


def test_a_printed_setting_is_read_between_braces_too() -> None:
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
        for text in _INLINE.findall(prose):
            if "*" not in text and "&" not in text:
                assert load(f"{{{_filled(text)}}}"), f"{page}: {text}"


def test_the_judges_address_is_read_where_the_page_puts_it() -> None:
    (address,) = re.findall(r"`(base_url: [^`]+)`", (ROOT / "docs/judge.md").read_text(encoding="utf-8"))
    protocol = load(f"protocol: {{model: m, {address}, temperature: 0.7}}")["protocol"]
    assert ProtocolSettings.model_validate(protocol).base_url == "http://127.0.0.1:8000/v1"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nprotocol: {model: m, base_url: http://x:8000/v1}\n", "http://x:8000/v1"),
        ("protocol: {\n  model: org/name:free,\n  limit: 2}\n", "org/name:free"),
        ("datasets: [own, http://x:1]\n", "http://x:1"),
        ("prompt:\n  with_input: {instruction} {input}\n", "{instruction} {input}"),
        ("note: half: done # so\n", "half: done"),
        ("rows:\n  root: C:\\rows: new\n", "C:\\rows: new"),
        ("name: @me\n", "@me"),
        ("name: `me`\n", "`me`"),
    ],
)
def test_a_value_that_needs_quotes_is_shown_with_this_fix(text: str, value: str, tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_yaml(file)
    assert str(caught.value).endswith(f" in `{value}`; put the value in quotes")
    number = next(n for n, line in enumerate(text.splitlines(), start=1) if value in line)
    assert str(caught.value).startswith(f"{file}:{number} is not valid YAML: ")
    file.write_text(text.replace(value, json.dumps(value)))
    read_yaml(file)


@pytest.mark.parametrize("text", ["a: [1, 2\nb: 3\n", "a: *students\n", "a: 1\n- b\n", 'a: "b\nc: 1\n', "a:\n\t- 1\n"])
def test_a_fault_that_no_quotes_mend_is_left_to_the_reader(text: str, tmp_path: Path) -> None:
    (tmp_path / "some.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"; correct that line$"):
        read_yaml(tmp_path / "some.yaml")
