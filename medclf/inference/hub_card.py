"""The card of a published bundle, README.md: filled from the run, with no file name and no question left open."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from medclf.escaping import printable
from medclf.metrics.table import METRICS, class_metrics
from medclf.models.spec import ModelSpec
from medclf.results.results import short_metrics
from medclf.results.run_folder import RESULTS, RunFolder
from medclf.results.wording import counted, interval, number, of_validation, partition_name, without_leaks

_MARKDOWN = re.compile(r"([\\`*_\[\]<>|#])")
_USE = "Research only. Not a medical device: do not use it for diagnosis or treatment."
_FROM_RUN = ("evaluated", "probabilities", "sensitivity")  # told better by the tables


def card_of(content: Mapping[str, Any], name: str, place: str, *, run: Path | None = None, licence: str = "") -> str:
    """The card's text.

    Args:
        content: of bundle.json.
        name: of the model.
        place: where it will lie, for the example.
        run: the RUN folder that it comes from; its results are told where there is one.
        licence: of the model.
    """
    import yaml

    spec = ModelSpec.from_dict(content["recipe"])
    folder = RunFolder(run) if run is not None and (run / RESULTS).is_file() else None
    results = folder.results if folder else {}
    head: dict[str, Any] = {"license": licence} if licence else {}
    head |= {"library_name": "medclf", "pipeline_tag": "image-classification"}
    head["tags"] = ["medical", "image-classification", *filter(None, [spec.settings.modality])]
    blocks = [f"---\n{yaml.safe_dump(head, sort_keys=False).strip()}\n---", f"# {_plain(name)}"]
    card = {str(key): value for key, value in content["card"].items()}
    use = card.pop("intended_use", None) or card.pop("intended use", None)
    blocks.append(" ".join(filter(None, [_USE, _plain(use) if use else ""])))
    for title, lines in (
        ("Model", _model(spec, card.pop("encoder", {}), content)),
        ("Data", _data(folder, results)),
        ("Results", _results(results, card)),
        ("How sure it is", _limits(results)),
        ("What its makers say", _answers(card)),
        ("How to use it", _example(place)),
    ):
        if text := "\n".join(lines):
            blocks.append(f"## {title}\n\n{text}")
    return "\n\n".join(blocks) + "\n"


def _model(spec: ModelSpec, encoder: Any, content: Mapping[str, Any]) -> Iterator[str]:
    height, width = spec.preprocessing.size
    yield f"- Architecture: {_plain(spec.arch)}, {spec.n_in} channels of {width} x {height} pixels"
    for key, value in encoder.items() if isinstance(encoder, Mapping) else ():
        yield f"- Encoder, {_plain(key).replace(chr(92) + '_', ' ')}: {_plain(value)}"
    kind = "several labels an image" if spec.multi_label else "one label an image"
    yield f"- Labels ({kind}): {', '.join(map(_plain, spec.vocab))}"
    made = ", ".join(f"{package} {version}" for package, version in content["versions"].items())
    yield f"- Made with {made}. SHA-256 of the bundle: `{content['hash']}`"


def _data(folder: RunFolder | None, results: Mapping[str, Any]) -> Iterator[str]:
    data = results.get("data") or {}
    named = folder is not None and not folder.hide_names and folder.settings.get("data")
    if named:
        yield f"Images of {_plain(Path(str(named)).name)}. "
    if "n_images" in data:
        yield f"{number(data['n_images'])} images."
    counts = {part: found for part, found in (data.get("counts") or {}).items() if found}
    if counts:
        vocab = list(dict.fromkeys(label for found in counts.values() for label in found))
        names = [f"{partition_name(part)} set" for part in counts]
        yield from ("", *_table(["label", *names], [[v, *(f.get(v, 0) for f in counts.values())] for v in vocab]))
    if sentence := (data.get("split") or {}).get("sentence"):
        yield from ("", _plain(sentence))


def _results(results: Mapping[str, Any], card: dict[str, Any]) -> Iterator[str]:
    if not results:
        if told := card.pop("evaluated", None):
            yield _plain(told)
        if isinstance(found := card.get("sensitivity"), Mapping):
            card.pop("sensitivity")
            yield from ("", *_table(["label", "sensitivity"], [list(row) for row in found.items()]))
        return
    for key in _FROM_RUN:
        card.pop(key, None)
    sets = [(f"{partition_name(results.get('partition'))} {counted(results)}", results)]
    if leak_free := without_leaks(results):
        sets.append(("without leaked images", leak_free))
    if results.get("test"):
        sets.append((f"test {counted(results)}", results["test"]))
    if leak_free := without_leaks(results.get("test") or {}):
        sets.append((f"test {counted(results)} without leaks", leak_free))
    rows = [
        [METRICS[key].title, *(_written((found or {}).get(key)) for _, found in sets)] for key in short_metrics(results)
    ]
    yield from _table(["metric (95 % CI)", *(f"{name}, n = {found.get('n', 0)}" for name, found in sets)], rows)
    yield ""
    columns = class_metrics(short=True)
    rows = [
        [label, row["n"], *(_written(row.get(metric.key)) for metric in columns)]
        for label, row in results["per_class"].items()
    ]
    yield from _table(["label", "n", *(metric.title for metric in columns)], rows)
    if told := of_validation(results):
        yield from ("", told)
    for part in (results, results.get("test") or {}):
        if sentence := (part.get("leak_free") or {}).get("sentence"):
            yield from ("", _plain(sentence))


def _limits(results: Mapping[str, Any]) -> Iterator[str]:
    for section in ("calibration", "decision", "operating_point", "abstain", "ood"):
        found = results.get(section)
        if isinstance(found, Mapping) and found.get("sentence"):
            yield f"- {_plain(found['sentence'])}"


def _answers(card: Mapping[str, Any]) -> Iterator[str]:
    for key, value in card.items():
        if value not in (None, "", [], {}):
            yield f"- {_plain(key.replace('_', ' ').capitalize())}: {_plain(value)}"


def _example(place: str) -> Iterator[str]:
    yield from ("```python", "from medclf import from_hub", "", f"model = from_hub({place!r})")
    yield from ('answer = model.predict("image.png")', "print(answer.label, answer.probs, answer.flags)", "```")


def _written(metric: Any) -> str:
    if not isinstance(metric, Mapping) or metric.get("value") is None:
        return "not computed"
    ends = interval(metric)
    return number(metric["value"]) + (f" ({ends})" if ends else "")


def _table(head: list[str], rows: list[list[Any]]) -> Iterator[str]:
    yield "| " + " | ".join(map(_plain, head)) + " |"
    yield "|" + "---|" * len(head)
    for row in rows:
        yield "| " + " | ".join(map(_plain, row)) + " |"


def _plain(text: Any) -> str:
    r"""Text that Markdown takes for nothing else, and that steers no terminal.

    Example:
        >>> print(_plain("a|b <script>"), _plain("c\x1b[2J"))
        a\|b \<script\> c\\x1b\[2J
    """
    return _MARKDOWN.sub(r"\\\1", printable(" ".join(str(text).split())))
