"""What MkDocs cannot do by itself: the README as the first page, and pages for files of the
repository that other pages link to, so that a link works on a code host and in the site alike."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
HOME = "index.md"
OUTSIDE = re.compile(r"\]\((?:\.\./)+((?!docs/)[\w./-]+?)\)")  # a link that leaves docs/
OWN_FILES = ("assets/iframe-worker.js", "assets/site.css")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the home page, the linked files, and the site's own script and style."""
    files.append(File.generated(config, HOME, content=home()))
    linked = {path for page in files.documentation_pages() for path in linked_files(page)}
    for path in sorted(linked - {"README.md"}):
        hidden = InclusionLevel.NOT_IN_NAV
        files.append(File.generated(config, source(path), content=as_page(path), inclusion=hidden))
    for name in OWN_FILES:
        path = str(Path(__file__).parent / Path(name).name)
        files.append(File.generated(config, name, abs_src_path=path))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links to files of the repository into links to their pages."""
    up = "../" * page.file.src_uri.count("/")

    def to_site(link: re.Match[str]) -> str:
        return f"]({up}{HOME if link[1] == 'README.md' else source(link[1])})"

    return OUTSIDE.sub(to_site, markdown)


def home() -> str:
    """The README, with its links as they are from within docs/."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(r"\]\((?!#|\w+:)(docs/)?", lambda link: "](" if link[1] else "](../", readme)


def linked_files(page: File) -> list[str]:
    return OUTSIDE.findall(page.content_string)


def source(path: str) -> str:
    return f"source/{path}.md"


def as_page(path: str) -> str:
    """A file of the repository as a page that shows its text.

    Raises:
        PluginError: a page links to a file that is not there
    """
    try:
        text = (ROOT / path).read_text(encoding="utf-8")
    except OSError as error:
        raise PluginError(f"a page links to {path}, which is no file of the repository") from error
    return f"# {path}\n\n```{Path(path).suffix[1:]}\n{text}\n```\n"
