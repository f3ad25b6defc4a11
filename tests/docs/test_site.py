"""The documentation as a site, in a real Chromium and from the disk: every page is there, the
search finds, and nothing is fetched from anywhere."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.docs.pages import PAGES, ROOT, name_of


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    config = ROOT / "docs" / "site" / "mkdocs.yml"
    subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-f", config, "-d", folder],
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        check=True,
        timeout=120,
    )
    return folder


@pytest.fixture(scope="module")
def opened(browser: Browser) -> Iterator[tuple[Page, list[str]]]:
    """A page of a browser, and what went wrong in it: requests that leave the disk, errors."""
    wrong: list[str] = []
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.on("request", lambda one: one.url.startswith("http") and wrong.append(one.url))
    page.on("console", lambda one: one.type == "error" and wrong.append(one.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page, wrong
    page.close()


def test_each_page_is_in_the_navigation(site: Path) -> None:
    home = (site / "index.html").read_text()
    for page in PAGES[1:]:
        name = name_of(page).removeprefix("docs/").replace("README.md", "index.html")
        assert f'href="{name.replace(".md", ".html")}"' in home, f"{name}: docs/site/mkdocs.yml"


def test_the_search_works_from_the_disk_and_nothing_is_fetched(
    site: Path, opened: tuple[Page, list[str]]
) -> None:
    page, wrong = opened
    page.goto(f"file://{site}/index.html")
    page.locator("input[name=query]").click()
    page.keyboard.type("logit adjustment")
    results = page.locator(".md-search-result__item")
    results.first.wait_for()
    results.filter(has_text="Long tails").first.locator("a").first.click()
    page.wait_for_url("**/recipes.html**")
    assert page.locator("h1").inner_text().startswith("Recipes")
    assert wrong == []


def test_no_page_is_wider_than_a_phone(site: Path, opened: tuple[Page, list[str]]) -> None:
    """Tables and blocks scroll by themselves."""
    page, wrong = opened
    page.set_viewport_size({"width": 390, "height": 844})
    for file in sorted(set(site.rglob("*.html")) - {site / "404.html"}):  # that is for servers
        page.goto(f"file://{file}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, file
    assert wrong == []
