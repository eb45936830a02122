"""Forms that are not read: recognised, so that a message can say which export of the tool to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from d2lmini.data import files as on_disk
from d2lmini.data.entries import EXPECTED
from d2lmini.data.files import DEPTH
from d2lmini.data.tables import read_header

EXPORTS = {
    "VIA": "choose 'Export Annotations (COCO format)' in VIA",
    "CreateML": "export 'COCO' or 'Pascal VOC' from the tool that wrote it (Roboflow, RectLabel)",
    "Supervisely": "run the app 'Export to COCO' or 'Export to YOLOv8' in Supervisely",
    "VoTT": "choose the export 'Pascal VOC' in VoTT",
    "Open Images": "let FiftyOne load the images, and export them as 'COCODetectionDataset'",
    "Hugging Face": "write its objects as COCO's instances, or take the dataset's COCO or YOLO version",
    "Label Studio": "choose the export 'COCO' or 'Pascal VOC XML' with images in Label Studio",
    "TFRecord": "export 'Pascal VOC' or 'COCO' from the tool that wrote it",
    "a list of COCO's annotations": "give the whole file, with its images, annotations and categories",
}
SUFFIXES = {".vott": "VoTT", ".tfrecord": "TFRecord", ".tfrecords": "TFRecord", ".record": "TFRecord"}
HEADERS = {
    "Open Images": {"imageid", "labelname", "xmin"},
    "VIA": {"filename", "region_shape_attributes"},
    "VoTT": {"image", "xmin", "ymin", "xmax", "ymax", "label"},
    "Hugging Face": {"file_name"},
}


def refuse(root: Path, contents: Mapping[Path, Any]) -> str:
    """What to say of a folder in no form that is read; `contents` are its JSON files'."""
    found = on_disk.files_below(root, [".csv", ".jsonl", *SUFFIXES])
    kinds = {path: _json_kind(content) for path, content in contents.items()}
    for path in found:
        kinds[path] = SUFFIXES.get(path.suffix.lower()) or _table_kind(path)
    for path, kind in kinds.items():
        if kind:
            return f"{path} is in the form of {kind}, which is not read: {EXPORTS[kind]}"
    if labels := [p for p in on_disk.files_below(root, [".txt"]) if p.parent.name.lower() == "labels"]:
        names = f"add {root / 'data.yaml'} with a line such as names: [cat, dog]"
        return f"{labels[0]} seems to be YOLO's, but nothing gives the names of the classes: {names}"
    endings = Counter(path.suffix.lower() or path.name for path in on_disk.files_below(root, None))
    there = ", ".join(f"{count} {ending}" for ending, count in endings.most_common(6)) or "no files"
    where = f"neither in it nor {DEPTH} levels of folders below"
    return f"{root} has no annotations that are known here, {where}; there are {there}; {EXPECTED}"


def _table_kind(path: Path) -> str | None:
    if path.name.startswith("metadata."):
        return "Hugging Face"
    columns = {*read_header(path)} if path.suffix.lower() == ".csv" else set()
    return next((kind for kind, names in HEADERS.items() if names <= columns), None)


def _json_kind(content: Any) -> str | None:
    """The tool that a JSON file's content comes from."""
    keys = {*content} if isinstance(content, dict) else set()
    values = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    first = next(iter(values), None)
    inner = {*first} if isinstance(first, dict) else set()
    if isinstance(content, list):
        if {"image", "annotations"} <= inner or {"imagefilename", "annotation"} <= inner:
            return "CreateML"
        if "data" in inner and inner & {"annotations", "completions", "result"}:
            return "Label Studio"
        return "a list of COCO's annotations" if {"bbox", "category_id"} <= inner else None
    if keys & {"_via_img_metadata", "_via_settings"} or {"filename", "regions"} <= inner:
        return "VIA"
    if {"asset", "regions"} <= keys or "assets" in keys:
        return "VoTT"
    return "Supervisely" if {"objects", "size"} <= keys else None
