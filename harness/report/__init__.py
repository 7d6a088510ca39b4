"""The report: a pure function of what is on disk. Run folder in, summary.json, junit.xml and index.html out.

The page also has the newest ledger of the folder of reports in which the run folder is.
"""

from pathlib import Path

import msgspec

from harness.report import html, junit, ledger, run, summary
from harness.report.run import publish
from harness.report.summary import Summary

__all__ = ["Summary", "publish", "write"]


def write(run_folder: Path) -> Summary:
    """Write the report of a run into its folder, each file as a whole or not at all.

    Raises:
        HarnessError: the plan of the run cannot be read, or a file cannot be written; the text names it.
    """
    loaded = run.load(run_folder)
    verdict = summary.summarize(loaded)
    encoded = msgspec.json.format(msgspec.json.encode(verdict), indent=2)
    run.write_atomically(loaded.path / "summary.json", encoded + b"\n")
    run.write_atomically(loaded.path / "junit.xml", junit.render(loaded, verdict))
    run.write_atomically(loaded.path / "index.html", html.render(loaded, verdict, ledger.newest(loaded.path.parent)))
    return verdict
