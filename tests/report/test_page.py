"""The page in a real browser: what a mark of a strip stands for is reached by keys and by touch."""

from pathlib import Path

import pytest

from harness import report
from tests.report import samples
from tests.report.browser import CHROMIUM, Tab, browsing
from tests.report.samples import RunBuilder
from tests.systems import in_event_loop

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="takes Chromium")

COUNT = 90
BAD = 40
# As many marks as a row has, as the page lays them out.
ROW = """(() => { const tops = [...document.querySelectorAll('.strip li')].map((mark) => mark.offsetTop);
    return tops.filter((top) => top === tops[0]).length; })()"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """The page of a sweep of which one case is broken."""
    built = RunBuilder(tmp_path / "run")
    built.swept("wire-up-python-websocket", samples.cases(range(COUNT), broken={BAD}))
    report.write(built.folder)
    return built.folder / "index.html"


async def told(tab: Tab) -> tuple[str, str]:
    """What stands below the strip: of the case, and the command."""
    texts = await tab.evaluate("[...document.querySelectorAll('.told p')].map((each) => each.textContent.trim())")
    return texts[0], texts[1]


async def chosen(tab: Tab) -> int:
    """The position of the case that is told, which is the one that is chosen in the strip, and no other is."""
    line, command = await told(tab)
    case, _, rest = line.partition(" ")
    position = int(case.removeprefix("wire/up/"))
    assert f"cut after {position}" in rest
    assert f"byte {position + 1} of {COUNT}" in rest
    assert command == f"pytest test_wire.py --seed 7 --case {case}"
    marks = await tab.evaluate(
        "(() => { const strip = document.querySelector('.strip');"
        " const all = [...strip.children].filter((mark) => mark.ariaSelected === 'true');"
        " return all.map((mark) => [mark.title, mark.id === strip.getAttribute('aria-activedescendant')]); })()"
    )
    assert [(title.partition(":")[0], active) for title, active in marks] == [(case, True)]
    return position


@in_event_loop
async def test_a_mark_is_chosen_by_keys(page: Path, tmp_path: Path) -> None:
    """One by one, by rows, the first and the last; beyond either end nothing more is chosen."""
    async with browsing(page, tmp_path / "profile") as tab:
        assert await chosen(tab) == BAD
        assert await tab.evaluate("document.querySelector('.strip').tabIndex") == 0
        await tab.evaluate("document.querySelector('.strip').focus()")
        row = await tab.evaluate(ROW)
        assert 1 < row < BAD
        for keys, position in (
            (["ArrowRight"], BAD + 1),
            (["ArrowLeft", "ArrowLeft"], BAD - 1),
            (["ArrowUp"], BAD - 1 - row),
            (["ArrowDown", "ArrowDown"], BAD - 1 + row),
            (["Home"], 0),
            (["ArrowLeft", "ArrowUp"], 0),
            (["End"], COUNT - 1),
            (["ArrowRight", "ArrowDown"], COUNT - 1),
        ):
            await tab.press(*keys)
            assert await chosen(tab) == position


@in_event_loop
async def test_a_mark_is_chosen_by_touch(page: Path, tmp_path: Path) -> None:
    """A tap on any mark tells of its case."""
    async with browsing(page, tmp_path / "profile") as tab:
        for position in (7, 8, COUNT - 1):
            await tab.tap(f".strip li:nth-child({position + 1})")
            await _comes_to(tab, position)
            assert await chosen(tab) == position


async def _comes_to(tab: Tab, position: int) -> None:
    """Wait for the browser to make a click of a tap."""
    await tab.evaluate(
        f"new Promise((done) => {{ const look = () => document.querySelector('.told code').textContent"
        f" === 'wire/up/{position}' ? done(true) : requestAnimationFrame(look); look(); }})"
    )


@in_event_loop
async def test_a_wide_table_scrolls_by_keys(page: Path, tmp_path: Path) -> None:
    """On a phone the table of scenarios is wider than its place, and a shadow at its edge says so."""
    async with browsing(page, tmp_path / "profile") as tab:
        table = "document.querySelector('.scroll')"
        assert await tab.evaluate(f"{table}.scrollWidth > {table}.clientWidth")
        assert "gradient" in await tab.evaluate(f"getComputedStyle({table}).backgroundImage")
        await tab.evaluate(f"{table}.focus()")
        await tab.press("ArrowRight")
        await tab.evaluate(
            f"new Promise((done) => {{ const look = () => {table}.scrollLeft > 0 ? done(true) :"
            " requestAnimationFrame(look); look(); })"
        )
