"""Boxes as their files have them: COCO, HyperKvasir's JSON, Pascal VOC, YOLO and CSV, each read into one list."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from medclf.dataset.box_csv import boxes_in_csv
from medclf.dataset.given_boxes import (
    GivenBox,
    GivenImage,
    box_of,
    box_of_size,
    check_labels,
    check_scores,
    label_of,
    no_number,
    number,
    scores_in,
    size_of,
)
from medclf.errors import DataError, missing
from medclf.files import is_hidden

_MAX_BYTES = 512 << 20  # of a JSON or CSV file
_MAX_SMALL = 4 << 20  # of the file of one image
_MAX_DEPTH = 32
_KINDS = "COCO or HyperKvasir JSON, CSV, a folder of Pascal VOC XML, or a folder of YOLO txt"
_PLAIN_TEXT = {"classes.txt", "train.txt", "val.txt", "test.txt"}


def read_box_file(path: str | Path) -> list[GivenImage]:
    """Read boxes, whatever their format; nothing of them is checked but the file's structure.

    Args:
        path: JSON (COCO, or a dict of images as HyperKvasir publishes), CSV, a Pascal VOC XML file or a folder of
            them, or a YOLO folder: a txt file an image, and the names of the classes in classes.txt, a .names file or
            a .yaml file, there or one folder above.

    Returns:
        One entry an image that the file speaks of, in its order.

    Raises:
        DataError: the file is missing, of no known format, damaged, or larger than 512 MiB (an image's own: 4 MiB).

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "boxes.csv"
        >>> _ = file.write_text("path,label,x_min,y_min,x_max,y_max\\na.png,polyp,2,3,10,20\\nb.png,,,,,\\n")
        >>> [(image.name, [box.corners for box in image.boxes]) for image in read_box_file(file)]
        [('a.png', [(2.0, 3.0, 10.0, 20.0)]), ('b.png', [])]
    """
    path = Path(path)
    if not path.exists():
        raise DataError(*missing(path))
    images = _of_folder(path) if path.is_dir() else _of_file(path)
    check_scores(images, path)
    check_labels(images, path)
    return images


def _of_file(path: Path) -> list[GivenImage]:
    readers: dict[str, Callable[[Path], list[GivenImage]]] = {".json": _of_json, ".csv": _of_csv, ".tsv": _of_csv}
    readers[".xml"] = lambda file: [_of_voc(file)]
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is no file of boxes that medclf knows", f"give {_KINDS}")
    return readers[path.suffix.lower()](path)


def _of_folder(folder: Path) -> list[GivenImage]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and not _is_beside(file.relative_to(folder))]
    xml = [file for file in files if file.suffix.lower() == ".xml"]
    text = [file for file in files if file.suffix.lower() == ".txt"]
    if xml and text:
        raise DataError(f"{folder} holds both XML and txt files: Pascal VOC or YOLO?", "leave one kind in it")
    if not xml and not text:
        raise DataError(f"{folder} holds no boxes", f"give {_KINDS}")
    if xml:
        return [_of_voc(file) for file in xml]
    names = _yolo_names(folder)
    return [_of_yolo(file, folder, names) for file in text]


def _is_beside(file: Path) -> bool:
    """Whether a file holds no boxes: a hidden one, as macOS leaves, a list of names, or something to read."""
    hidden = any(map(is_hidden, file.parts))
    name = file.name.lower()
    return hidden or name in _PLAIN_TEXT or name.partition(".")[0] in ("readme", "license")


def _bytes_of(path: Path, at_most: int) -> bytes:
    try:
        size = path.stat().st_size
        if size > at_most:
            raise DataError(f"{path} has {size} bytes, more than the {at_most} allowed", "split it into several files")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "look at its permissions") from error


def _text_of(path: Path) -> str:
    try:
        return _bytes_of(path, _MAX_SMALL).decode("utf-8-sig")
    except UnicodeError as error:
        raise DataError(f"{path} is no UTF-8 text", "save it as UTF-8") from error


def _of_json(path: Path) -> list[GivenImage]:
    try:
        content = json.loads(_bytes_of(path, _MAX_BYTES))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is no JSON: {str(error)[:100]}", "save it again") from error
    if isinstance(content, Mapping) and isinstance(content.get("annotations"), list):
        return _of_coco(content, path)
    if isinstance(content, Mapping) and content and all(isinstance(one, Mapping) for one in content.values()):
        return [_of_hyperkvasir(str(name), entry, path) for name, entry in content.items()]
    raise DataError(f"{path} is neither COCO nor HyperKvasir JSON", f"give {_KINDS}")


def _of_hyperkvasir(name: str, entry: Mapping[str, Any], path: Path) -> GivenImage:
    boxes = entry.get("bbox")
    if not isinstance(boxes, list) or not all(isinstance(box, Mapping) for box in boxes):
        raise DataError(f"{path}: {name[:60]!r} has no list 'bbox'", f"give {_KINDS}")
    found = [
        replace(
            box_of(label_of(box.get("label"), path, name), [box.get(side) for side in _SIDES], f"box {place}"),
            scores=scores_in(box),
        )
        for place, box in enumerate(boxes, 1)
    ]
    return GivenImage(name, size_of(entry.get("width"), entry.get("height")), found)


def _of_coco(content: Mapping[str, Any], path: Path) -> list[GivenImage]:
    names: dict[str, str] = {}
    for one in _listed(content, "categories", path):
        name = _key(one, "name", path)
        if names.setdefault(_key(one, "id", path), name) != name:
            raise DataError(f"{path}: two categories have the id {one['id']!r}", "give each its own")
    images = {}
    for one in _listed(content, "images", path):
        identity = _key(one, "id", path)
        if identity in images:
            raise DataError(f"{path}: two images have the id {identity!r}", "give each its own")
        images[identity] = GivenImage(_key(one, "file_name", path), size_of(one.get("width"), one.get("height")))
    for place, one in enumerate(_listed(content, "annotations", path), 1):
        identity, label = _key(one, "image_id", path), names.get(_key(one, "category_id", path))
        if identity not in images:
            raise DataError(f"{path}: a box is of the image {identity!r}, which 'images' does not list", "list it")
        if label is None:
            raise DataError(f"{path}: the category {one['category_id']!r} is not among 'categories'", "name it there")
        images[identity].boxes.append(_coco_box(one, label, f"annotation {one.get('id', place)}"))
    return list(images.values())


def _coco_box(entry: Mapping[str, Any], label: str, where: str) -> GivenBox:
    bbox = entry.get("bbox") or _around(entry.get("segmentation"))
    if not isinstance(bbox, list) or len(bbox) != 4:
        without = "no number: it has no 'bbox' of x, y, width and height, and no polygons as 'segmentation'"
        return GivenBox(label, (math.nan,) * 4, without, where)
    box = box_of_size(label, bbox, where, bool(entry.get("ignore")))
    box = replace(box, scores=scores_in(entry))
    crowd = "crowd: it stands for several findings (iscrowd), not for one"
    return replace(box, problem=crowd) if entry.get("iscrowd") else box


def _around(polygons: Any) -> list[float] | None:
    """The bbox around COCO's polygons, each [x1, y1, x2, y2, ...]; None where there are none."""
    try:
        x, y = ([float(one) for polygon in polygons for one in polygon[start::2]] for start in (0, 1))
        return [min(x), min(y), max(x) - min(x), max(y) - min(y)]
    except (TypeError, ValueError):
        return None


def _listed(content: Mapping[str, Any], name: str, path: Path) -> list[Mapping[str, Any]]:
    found = content.get(name)
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise DataError(f"{path}: COCO has a list {name!r}", "save it again")
    return found


def _key(entry: Mapping[str, Any], name: str, path: Path) -> str:
    value = entry.get(name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # as pandas writes numbers of a column with gaps
    if not isinstance(value, (str, int)) or isinstance(value, bool):
        raise DataError(f"{path}: an entry has no {name!r} of text or a whole number", "save it again")
    return str(value).strip()


def _of_voc(path: Path) -> GivenImage:
    root = _xml(path)
    if root.tag != "annotation":
        raise DataError(f"{path} is no Pascal VOC file: it holds <{root.tag[:40]}>", f"give {_KINDS}")
    boxes = []
    for place, one in enumerate(root.iter("object"), 1):
        found = [one.findtext(f"bndbox/{side}") for side in _SIDES]
        x_min, y_min, x_max, y_max = map(number, found)
        label = label_of(one.findtext("name"), path, path.name)
        corners = (x_min - 1, y_min - 1, x_max, y_max)
        doubtful = (one.findtext("difficult") or "").strip() == "1"
        box = GivenBox(label, corners, no_number(found), f"object {place} of {path.name}", doubtful)
        boxes.append(replace(box, scores=scores_in({part.tag: part.text for part in one})))
    size = size_of(root.findtext("size/width"), root.findtext("size/height"))
    name = (root.findtext("filename") or "").strip() or path.stem
    return GivenImage(name, size, boxes, or_name=path.stem)  # images are renamed with their XML, not in it


_SIDES = ("xmin", "ymin", "xmax", "ymax")


def _xml(path: Path) -> Element:
    """The root of an XML file without declarations of its own, which could name other files or grow without end."""
    builder, depth = TreeBuilder(), 0

    def refuse(*_: Any) -> None:
        raise DataError(f"{path} declares a document type or entities", "save it without its <!DOCTYPE ...>")

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            raise DataError(f"{path} is nested deeper than {_MAX_DEPTH}", "save it again")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = refuse
    parser.StartElementHandler, parser.EndElementHandler, parser.CharacterDataHandler = start, end, builder.data
    try:
        parser.Parse(_bytes_of(path, _MAX_SMALL), True)
    except (expat.ExpatError, UnicodeError, LookupError, ValueError) as error:
        raise DataError(f"{path} is no XML: {error}", "save it again") from error
    return builder.close()


def _yolo_names(folder: Path) -> dict[int, str]:
    """The names of the classes by their number, of the first file that has some."""
    found: dict[Path, dict[int, str]] = {}
    for place in (folder, folder.parent):
        plain = [file for file in (place / "classes.txt", *sorted(place.glob("*.names"))) if file.is_file()]
        found |= {file: _names_by_line(file) for file in plain}
        found |= {file: _names_in(file) for file in sorted([*place.glob("*.yaml"), *place.glob("*.yml")])}
    found = {file: names for file, names in found.items() if names}
    if not found:
        remedy = "put classes.txt beside the files, a name a line"
        raise DataError(f"{folder}: the names of the classes are missing", remedy)
    (first, names), *others = found.items()
    for file, other in others:
        if any(names.get(number, name) != name for number, name in other.items()):
            raise DataError(f"{first} and {file} name the classes differently", "leave the right one alone there")
    return names


def _names_by_line(file: Path) -> dict[int, str]:
    lines = _text_of(file).rstrip().splitlines()
    return {number: line.strip() for number, line in enumerate(lines) if line.strip()}


def _names_in(file: Path) -> dict[int, str]:
    import yaml

    try:
        content = yaml.safe_load(_text_of(file))
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file} is no YAML: {str(error)[:100]}", "save it again") from error
    names = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, Mapping):
        return {}
    return {int(key): str(name) for key, name in names.items() if str(key).isdecimal() and isinstance(name, (str, int))}


def _of_yolo(file: Path, folder: Path, names: Mapping[int, str]) -> GivenImage:
    found = GivenImage(file.relative_to(folder).with_suffix("").as_posix(), in_shares=True)
    for line, text in enumerate(_text_of(file).splitlines(), 1):
        cells = text.split()
        if not cells:
            continue
        if len(cells) != 5 or not (cells[0].isdecimal() and len(cells[0]) < 7):
            raise DataError(
                f"{file}, line {line}: {text[:60]!r} is no YOLO box",
                "a line is: class, x and y of the centre, width and height, from 0 to 1 (no polygons, no confidences)",
            )
        if int(cells[0]) not in names:
            known = ", ".join(f"{number} {name}" for number, name in sorted(names.items())[:5])
            raise DataError(f"{file}, line {line}: class {cells[0]} has no name; there are {known}", "add its name")
        x, y, width, height = map(number, cells[1:])
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        box = GivenBox(names[int(cells[0])], corners, no_number(cells[1:]), f"{file.name}, line {line}")
        found.boxes.append(replace(box, writing="centre"))
    return found


def _of_csv(path: Path) -> list[GivenImage]:
    if path.is_file() and path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path} is larger than {_MAX_BYTES} bytes", "split it into several files")
    return boxes_in_csv(path)
