"""Links, programs, files and tests that the pages name exist."""

import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("*/*.md")])


@cache
def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings as GitHub makes them: of two equal ones, the second ends with -1."""
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", prose, flags=re.M):
        name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        repeated = sum(re.fullmatch(rf"{re.escape(name)}(-\d+)?", other) is not None for other in found)
        found.add(f"{name}-{repeated}" if repeated else name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.is_file(), f"{page.name} links {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links {link}; {target.name} has {sorted(anchors(target))}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_programs_and_files_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    modules = {name.replace(".", "/") for name in re.findall(r"python -m ((?:benchmarks|dataset|engine|tools)\.\w+)", text)}
    paths = [ROOT / f"{module}.py" for module in modules]
    assert all(path.is_file() or path.with_suffix("").is_dir() for path in paths), paths
    ours = r"(?:benchmarks|dataset|docs|engine|eval|fast|methods|records|tests|tools)/[\w/]+\.(?:py|js|md|npz|txt)"
    named = set(re.findall(rf"(?<![\w./]){ours}", text)) - {"methods/mil.py"}  # docs/new-method.md makes that one
    assert not [name for name in named if not (ROOT / name).is_file()]


@cache
def sources() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tests_that_a_page_names_exist(page):
    text = page.read_text(encoding="utf-8")
    for file, name in re.findall(r"`(?:tests/)?(test_\w+\.py)(?:::(test_\w+))?`", text):
        assert file in sources() and f"def {name}" in sources()[file], (file, name)
    every = "".join(sources().values())
    assert not [name for name in re.findall(r"`(test_\w+)`", text) if f"def {name}(" not in every]
