"""`Run`: a RUN folder opened, for whoever works on with it."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

from medclf.dataset.csv_files import read_rows
from medclf.dataset.groups import leaking
from medclf.inference.bundle import Bundle, load_bundle
from medclf.inference.runtimes import bundle_in
from medclf.results.record import RECORD
from medclf.results.run_folder import EVALUATIONS, RESULTS, TABLE, RunFolder


class Run(RunFolder):
    """A RUN folder, of `train` or of `evaluate`.

    Its properties are read from the folder's files when first asked for: `results`, `predictions`, `table`, `settings`,
    `neighbours`, `findings` (of the audit), `bundle`.

    Args:
        path: the folder.

    Raises:
        DataError: there is no such folder; of the properties: the file is missing, damaged, or of a later medclf.

    Example:
        >>> Run("RUN").results["accuracy"]["value"]  # doctest: +SKIP
        0.92
    """

    @cached_property
    def bundle(self) -> Bundle:
        """The network, loaded.

        Raises:
            BundleError: there is none, or it is damaged.
        """
        return load_bundle(bundle_in(self.path))

    @property
    def trained_on(self) -> set[str]:
        """The SHA-256 of its training images, and of those of the runs that it began with, as far as tables say."""
        found: set[str] = set()
        run, asked = self, set[Path]()
        while run.path.resolve() not in asked:  # one that was replaced later may begin with one that began with it
            asked.add(run.path.resolve())
            if (run / TABLE).is_file():
                rows = read_rows(run / TABLE, ["path", "sha256", "partition"])
                found |= set(rows.loc[rows["partition"] == "train", "sha256"])
            earlier = run.settings.get("from_run") if (run / RECORD).is_file() else None
            run = Run(earlier) if earlier and Path(earlier).is_dir() else run
        return found

    @property
    def own_windows(self) -> dict[str, int]:
        """Images of the training by the window of their own that they were shown through; {} where nothing says."""
        found: dict[str, int] = self.record.get("own_windows", {}) if (self / RECORD).is_file() else {}
        return found

    def leaking(self, by: str = "path") -> set[str]:
        """What leaks from the training among the images that it predicted, as far as tables say.

        Args:
            by: the column of table.csv to name it by.
        """
        if not (self / TABLE).is_file():
            return set()
        if "bundle" in self.record:  # an evaluation, in which a training image may stand again
            seen = Run(self._origin).trained_on if self._origin else set()
            rows = self.table["sha256"].isin(seen) if "sha256" in self.table else slice(0)
        else:
            rows = leaking(self.table)
        return set(self.table.loc[rows, by].dropna())

    @property
    def evaluations(self) -> list[Run]:
        """What `evaluate` made of it, by name."""
        return [Run(file.parent) for file in sorted((self / EVALUATIONS).glob(f"*/{RESULTS}"))]

    def report(self, path: str | Path | None = None, **options: Any) -> Path:
        """Write its page; see `medclf.report`."""
        from medclf.reporting.report import report

        return report(self.path, path, **options)
