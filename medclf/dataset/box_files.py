"""Boxes as their files have them: COCO, HyperKvasir's JSON, Pascal VOC, YOLO and CSV, each read into one list."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from medclf.dataset.columns import read_csv
from medclf.errors import DataError

Corners = tuple[float, float, float, float]
"""x_min, y_min, x_max, y_max; NaN where the file holds no number."""

_MAX_BYTES = 512 << 20  # of a JSON or CSV file
_MAX_SMALL = 4 << 20  # of the file of one image
_MAX_DEPTH = 32
_KINDS = "COCO or HyperKvasir JSON, CSV, a folder of Pascal VOC XML, or a folder of YOLO txt"
_PLAIN_TEXT = {"classes.txt", "readme.txt", "license.txt", "train.txt", "val.txt", "test.txt"}
_COLUMNS = {  # names that CSVs have for one thing, the first found counts
    "image": ("path", "image", "image_id", "image_path", "filename", "file", "file_name"),
    "label": ("label", "class", "class_name", "category", "name", "finding"),
    "x_min": ("x_min", "xmin", "x1", "left", "bbox_x_min"),
    "y_min": ("y_min", "ymin", "y1", "top", "bbox_y_min"),
    "x_max": ("x_max", "xmax", "x2", "right", "bbox_x_max"),
    "y_max": ("y_max", "ymax", "y2", "bottom", "bbox_y_max"),
}


@dataclass(frozen=True)
class GivenBox:
    """A box as its file has it.

    Args:
        label: what it shows.
        corners: in pixels, or in shares of the image (see `GivenImage`); x_max and y_max are the first that are not in.
        problem: what its file says against it; "" where nothing.
        where: it stands in its file, such as "row 3".
    """

    label: str
    corners: Corners
    problem: str = ""
    where: str = ""


@dataclass
class GivenImage:
    """What a file of boxes says about an image.

    Args:
        name: of the image, as the file has it: a path, a name, or a name without its ending.
        size: (width, height) in pixels that the boxes were drawn at; None where it is not said.
        boxes: none where the file says that the image shows no finding.
        in_shares: whether corners are shares of the image, from 0 to 1, instead of pixels.
    """

    name: str
    size: tuple[float, float] | None = None
    boxes: list[GivenBox] = field(default_factory=list)
    in_shares: bool = False


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
        raise DataError(f"{path} does not exist", "look for a typing mistake in its name")
    if path.is_dir():
        return _of_folder(path)
    readers: dict[str, Callable[[Path], list[GivenImage]]] = {".json": _of_json, ".csv": _of_csv, ".tsv": _of_csv}
    readers[".xml"] = lambda file: [_of_voc(file)]
    if path.suffix.lower() not in readers:
        raise DataError(f"{path} is no file of boxes that medclf knows", f"give {_KINDS}")
    return readers[path.suffix.lower()](path)


def _of_folder(folder: Path) -> list[GivenImage]:
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    xml = [file for file in files if file.suffix.lower() == ".xml"]
    text = [file for file in files if file.suffix.lower() == ".txt" and file.name.lower() not in _PLAIN_TEXT]
    if xml and text:
        raise DataError(f"{folder} holds both XML and txt files: Pascal VOC or YOLO?", "leave one kind in it")
    if not xml and not text:
        raise DataError(f"{folder} holds no boxes", f"give {_KINDS}")
    if xml:
        return [_of_voc(file) for file in xml]
    names = _yolo_names(folder)
    return [_of_yolo(file, folder, names) for file in text]


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


def number(value: Any) -> float:
    """`value` as a finite number; NaN where it is none.

    Example:
        >>> number("3.5"), number(True), number("wide")
        (3.5, nan, nan)
    """
    if isinstance(value, bool):
        return math.nan
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return math.nan
    return found if math.isfinite(found) else math.nan


def _size(width: Any, height: Any) -> tuple[float, float] | None:
    size = (number(width), number(height))
    return size if min(size) > 0 else None  # some writers leave zeros


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
    sides = ("xmin", "ymin", "xmax", "ymax")
    found = [
        _box(_label(box.get("label"), path, name), [box.get(side) for side in sides], f"box {place}")
        for place, box in enumerate(boxes, 1)
    ]
    return GivenImage(name, _size(entry.get("width"), entry.get("height")), found)


def _label(value: Any, path: Path, where: str) -> str:
    if not isinstance(value, (str, int)) or isinstance(value, bool) or not str(value).strip():
        raise DataError(f"{path}: a box of {where[:60]!r} has no label", "give each box one")
    return str(value).strip()


def _box(label: str, values: Sequence[Any], where: str) -> GivenBox:
    """A box of its corners as the file has them."""
    x_min, y_min, x_max, y_max = map(number, values)
    return GivenBox(label, (x_min, y_min, x_max, y_max), _no_number(values), where)


def _no_number(values: Iterable[Any]) -> str:
    """Which value is no number; "" where all are."""
    for value in values:
        if not math.isnan(number(value)):
            continue
        text = "" if value is None else str(value).strip()
        point = text.replace(",", ".", 1)
        comma = "," in text and not math.isnan(number(point))
        return (
            f"no number: {text[:30]!r}" + (f" (write {point})" if comma else "")
            if text
            else "no number: one is missing"
        )
    return ""


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
        images[identity] = GivenImage(_key(one, "file_name", path), _size(one.get("width"), one.get("height")))
    for place, one in enumerate(_listed(content, "annotations", path), 1):
        identity, label = _key(one, "image_id", path), names.get(_key(one, "category_id", path))
        if identity not in images:
            raise DataError(f"{path}: a box is of the image {identity!r}, which 'images' does not list", "list it")
        if label is None:
            raise DataError(f"{path}: the category {one['category_id']!r} is not among 'categories'", "name it there")
        images[identity].boxes.append(_coco_box(one, label, f"annotation {one.get('id', place)}"))
    return list(images.values())


def _coco_box(entry: Mapping[str, Any], label: str, where: str) -> GivenBox:
    bbox = entry.get("bbox")
    if not isinstance(bbox, list) or len(bbox) != 4:
        return GivenBox(label, (math.nan,) * 4, "no number: it has no 'bbox' of x, y, width and height", where)
    x, y, width, height = map(number, bbox)
    crowd = "crowd: it stands for several findings (iscrowd), not for one" if entry.get("iscrowd") else ""
    return GivenBox(label, (x, y, x + width, y + height), crowd or _no_number(bbox), where)


def _listed(content: Mapping[str, Any], name: str, path: Path) -> list[Mapping[str, Any]]:
    found = content.get(name)
    if not isinstance(found, list) or not all(isinstance(one, Mapping) for one in found):
        raise DataError(f"{path}: COCO has a list {name!r}", "save it again")
    return found


def _key(entry: Mapping[str, Any], name: str, path: Path) -> str:
    value = entry.get(name)
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
        label = _label(one.findtext("name"), path, path.name)
        corners = (x_min - 1, y_min - 1, x_max, y_max)
        boxes.append(GivenBox(label, corners, _no_number(found), f"object {place} of {path.name}"))
    size = _size(root.findtext("size/width"), root.findtext("size/height"))
    return GivenImage((root.findtext("filename") or "").strip() or path.stem, size, boxes)


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


def _yolo_names(folder: Path) -> Sequence[str]:
    for place in (folder, folder.parent):
        for file in (place / "classes.txt", *sorted(place.glob("*.names"))):
            if file.is_file():
                return [line.strip() for line in _text_of(file).splitlines() if line.strip()]
        for file in sorted([*place.glob("*.yaml"), *place.glob("*.yml")]):
            if names := _names_in(file):
                return names
    raise DataError(
        f"{folder}: the names of the classes are missing", "put classes.txt beside the files, a name a line"
    )


def _names_in(file: Path) -> list[str]:
    import yaml

    try:
        content = yaml.safe_load(_text_of(file))
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{file} is no YAML: {str(error)[:100]}", "save it again") from error
    names = content.get("names") if isinstance(content, Mapping) else None
    if isinstance(names, Mapping):
        names = [names.get(place) for place in range(len(names))]
    fits = isinstance(names, list) and all(isinstance(name, (str, int)) for name in names)
    return [str(name) for name in names] if fits and names else []


def _of_yolo(file: Path, folder: Path, names: Sequence[str]) -> GivenImage:
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
        if int(cells[0]) >= len(names):
            raise DataError(f"{file}, line {line}: class {cells[0]}, of {len(names)} names", "add its name")
        x, y, width, height = map(number, cells[1:])
        corners = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        found.boxes.append(GivenBox(names[int(cells[0])], corners, _no_number(cells[1:]), f"{file.name}, line {line}"))
    return found


def _of_csv(path: Path) -> list[GivenImage]:
    if path.is_file() and path.stat().st_size > _MAX_BYTES:
        raise DataError(f"{path} is larger than {_MAX_BYTES} bytes", "split it into several files")
    rows = read_csv(path)
    by_name = {str(name).lower(): name for name in rows.columns}
    columns = {key: next((by_name[one] for one in known if one in by_name), None) for key, known in _COLUMNS.items()}
    missing = [key for key, name in columns.items() if name is None]
    if missing:
        known = ", ".join(_COLUMNS[missing[0]])
        raise DataError(f"{path} has no column for {missing[0]}", f"name it one of: {known}")
    sizes = [rows[by_name[name]] if name in by_name else [""] * len(rows) for name in ("width", "height")]
    images: dict[str, GivenImage] = {}
    cells = zip(*(rows[columns[key]] for key in _COLUMNS), *sizes, strict=True)
    for line, (name, label, *corners, width, height) in enumerate(cells, 2):
        if not name.strip():
            raise DataError(f"{path}, row {line}: no image is named", "give its path")
        size = _size(width, height)
        image = images.setdefault(name.strip(), GivenImage(name.strip(), size))
        image.size = image.size or size
        if size not in (None, image.size):
            raise DataError(f"{path}, row {line}: {name.strip()} has another width or height than before", "give one")
        if any(cell.strip() for cell in corners):
            image.boxes.append(_box(_label(label, path, f"{name}, row {line}"), corners, f"row {line}"))
    return list(images.values())


def count_kinds(problems: Iterable[str]) -> Counter[str]:
    """How often each kind of problem occurs: the words before the first colon."""
    return Counter(problem.partition(":")[0] for problem in problems)
