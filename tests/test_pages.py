"""Every snippet of the README and of the pages in docs/ runs, from the top of its page to the bottom.

The Python blocks of a page share their names and run in a folder of their own. Whatever a reader already has, a file or
a picture, is created by Python in a comment ``<!-- setup ... -->``. Commands of convlane in shell blocks run, too. A
block that cannot run here, for a cluster for example, follows a comment ``<!-- not run: why -->``.
"""

import doctest
import re
import shlex
from pathlib import Path

import pytest

from convlane.cli import main

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/**/*.md")])
BLOCK = re.compile(r"^(?:```(python|sh)|<!-- (setup))\n(.*?)^(?:```|-->)$", re.MULTILINE | re.DOTALL)
NOT_RUN = re.compile(r"^<!-- not run: [^\n]+ -->\n```(?:python|sh)\n.*?^```$", re.MULTILINE | re.DOTALL)
LIBRARY = re.compile(r"^(?:>>> |\.\.\. )? *(?:import|from) .*\b(torch|keras|onnxruntime)\b", re.MULTILINE)
ELSEWHERE = {"demo"}  # it takes half a minute, and .ci/run runs it


def run_part(page):
    """Return the text of a page with empty lines instead of the blocks that are not run."""
    return NOT_RUN.sub(lambda block: "\n" * block[0].count("\n"), page.read_text("utf-8"))


def marked(page):
    """Return a page as a parameter, marked with the libraries that its snippets import."""
    libraries = {name for _, _, text in BLOCK.findall(run_part(page)) for name in LIBRARY.findall(text)}
    marks = [getattr(pytest.mark, name) for name in sorted(libraries)]
    return pytest.param(page, marks=marks, id=page.relative_to(ROOT).as_posix())


def run_commands(text):
    for line in text.replace("\\\n", "").splitlines():
        words = shlex.split(line, comments=True)
        if words[:1] == ["convlane"] and words[1] not in ELSEWHERE:
            assert main(words[1:]) == 0, line


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_snippets(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = run_part(page)
    assert len(re.findall(r"^\s*(?:```(?:python|sh)\b|<!-- setup)", text, re.MULTILINE)) == len(BLOCK.findall(text))
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    names = {"__name__": "__main__"}
    for block in BLOCK.finditer(text):
        code, line = block[3], text.count("\n", 0, block.start(3))
        if block[1] == "sh":
            run_commands(code)
        elif ">>> " in code:
            examples = doctest.DocTestParser().get_doctest(code, names, page.name, str(page), line)
            runner.run(examples, clear_globs=False)
            names = examples.globs
        else:
            exec(compile("\n" * line + code, str(page), "exec"), names)
    assert runner.summarize(verbose=False).failed == 0
