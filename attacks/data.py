"""Hostile data sets and configurations."""

from __future__ import annotations

import csv
import json

from harness import HARMLESS, REFUSED, Place, attack, markup_in


@attack(HARMLESS, "Plan: find a ticket")
def nul_bytes(place: Place) -> list[str]:
    """A CSV with NUL bytes and control characters inside its texts: they are text."""
    data = place.reviews
    rows = data.read_text().splitlines()
    rows[100:140] = [f"{row.split(',')[0]} \0\x1b[2J,{row.split(',')[1]}" for row in rows[100:140]]
    data.write_text("\n".join(rows) + "\n")
    return place.find("--plan", data=data)


@attack(REFUSED, "fields, but the header has 2")
def ragged_rows(place: Place) -> list[str]:
    """A CSV whose rows have different numbers of fields."""
    data = place.reviews
    data.write_text(data.read_text() + "one,two,three\n")
    return place.find("--plan", data=data)


@attack(REFUSED, "and 199,980 more")
def many_columns(place: Place) -> list[str]:
    """A CSV of 200,000 columns, none of them the one asked for: the message names a few."""
    data = place.folder / "wide.csv"
    data.write_text(",".join(f"c{i}" for i in range(200_000)) + "\n")
    with data.open("a") as file:
        file.write(",".join("x" * 200_000) + "\n")
    return place.find("--plan", data=data)


@attack(HARMLESS, "were cut")
def huge_field(place: Place) -> list[str]:
    """A text of 1 MB in one field: cut to the model's length, and counted."""
    data = place.reviews
    data.write_text(data.read_text() + '"' + "good film " * 100_000 + '",pos\n')
    return place.find("--out", str(place.folder / "out"), data=data)


def _page_check(place: Place, said: str) -> str | None:
    out = place.folder / "out"
    return markup_in(out / "report.html") or markup_in(out / "ticket" / "README.md")


@attack(HARMLESS, "Report: ", _page_check)
def markup_in_labels(place: Place) -> list[str]:
    """Class names that are scripts, spreadsheet formulas and escape sequences, in a whole run:
    the report, the card and the terminal show them as text."""
    data = place.folder / "<script>alert(1)<!script>.csv"
    names = {"pos": "<script>alert(1)</script>=cmd|' /C calc'!A0", "neg": "\x1b[2J\x1b[31m"}
    with place.reviews.open() as file:
        rows = list(csv.reader(file))
    with data.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([rows[0], *([text, names[label]] for text, label in rows[1:])])
    return place.find("--out", str(place.folder / "out"), data=data)


@attack(REFUSED, "is not a parquet file")
def broken_parquet(place: Place) -> list[str]:
    """A parquet file whose end was overwritten."""
    import pyarrow
    import pyarrow.parquet

    data = place.folder / "data.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"review": ["a"] * 99, "verdict": [1] * 99}), data)
    content = bytearray(data.read_bytes())
    content[-60:-20] = b"\xff" * 40
    data.write_bytes(content)
    return place.find("--plan", data=data)


@attack(REFUSED, "line 1 is not JSON")
def deep_json_line(place: Place) -> list[str]:
    """A JSON line of a million brackets."""
    data = place.folder / "data.jsonl"
    data.write_text('{"review":' + "[" * 1_000_000 + "\n")
    return place.find("--plan", data=data)


@attack(REFUSED, "line 1 holds list; expected an object")
def json_of_another_form(place: Place) -> list[str]:
    """A JSON array of arrays."""
    data = place.folder / "data.json"
    data.write_text(json.dumps([[1, 2], [3, 4]]))
    return place.find("--plan", data=data)


@attack(REFUSED, "line 1 is not JSON")
def deep_squad(place: Place) -> list[str]:
    """A SQuAD file of a million brackets."""
    data = place.folder / "data.json"
    data.write_text('{"data":' + "[" * 1_000_000)
    return ["find", "--model", str(place.shared / "bert"), "--data", str(data),
            "--objective", "extractive-qa", "--plan"]  # fmt: skip


@attack(REFUSED, "is said to begin at character")
def answer_with_escapes(place: Place) -> list[str]:
    """An id, an answer and a context that clear the screen, in a message about them."""
    data = place.folder / "data.jsonl"
    evil = "\x1b[2Jowned\x1b]0;\x07"
    row = {"id": evil, "question": evil, "context": evil * 9,
           "answers": {"text": [evil], "answer_start": [-(10**30)]}}  # fmt: skip
    data.write_text(json.dumps(row) + "\n")
    return ["find", "--model", str(place.shared / "bert"), "--data", str(data),
            "--objective", "extractive-qa", "--plan"]  # fmt: skip


@attack(HARMLESS, "Report: ", _page_check)
def tags_with_markup(place: Place) -> list[str]:
    """Tags of words that are markup, in the card and the page of a run."""
    data = place.folder / "data.conll"
    data.write_text("".join(f"w{i} B-<script>alert(1)</script>\nx{i} O\n\n" for i in range(60)))
    return ["find", "--model", str(place.shared / "bert"), "--data", str(data),
            "--objective", "token-classification", "--sparsity", "0.4", "--method", "one-shot",
            "--from", "theta0", "--replicates", "2", "--controls", "none", "--epochs", "1",
            "--max-length", "16", "--workers", "0", "--out", str(place.folder / "out")]  # fmt: skip


@attack(REFUSED, "nor a data set that could be loaded")
def loading_script(place: Place) -> list[str]:
    """A data-set folder with a loading script: not run."""
    folder = place.folder / "evil"
    folder.mkdir()
    for name in ("evil.py", "__init__.py"):
        (folder / name).write_text(f"open({str(place.canary)!r}, 'w').close()\n")
    return place.find("--plan", data=folder)


@attack(REFUSED, "the alias *a")
def yaml_bomb(place: Place) -> list[str]:
    """A --config of nested aliases that stand for 10^12 names."""
    config = place.folder / "run.yaml"
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for name, before in zip("bcdefghijkl", "abcdefghijk", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    config.write_text("\n".join([*lines, "scope: *l"]) + "\n")
    return ["find", "--config", str(config)]


@attack(REFUSED, "could not determine a constructor for the tag")
def yaml_code(place: Place) -> list[str]:
    """A --config with a tag that calls a function."""
    config = place.folder / "run.yaml"
    config.write_text(f"model: !!python/object/apply:os.system ['touch {place.canary}']\n")
    return ["find", "--config", str(config)]


@attack(REFUSED, "is nested too deeply")
def deep_yaml(place: Place) -> list[str]:
    """A --config of 100,000 brackets."""
    config = place.folder / "run.yaml"
    config.write_text("scope: " + "[" * 100_000)
    return ["find", "--config", str(config)]


def _pictures(place: Place, bad: bytes, name: str = "bad.png") -> list[str]:
    """Return a search on pictures of two classes, one of them hostile."""
    import torch
    from transformers import AutoModel

    from architectures import ARCHITECTURES
    from little_images import class_folders

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(ARCHITECTURES["vit"].build_config())
    model.save_pretrained(place.folder / "vit")
    folder = class_folders(place.folder / "pictures", {"cats": 20, "dogs": 20})
    (folder / "cats" / name).write_bytes(bad)
    return ["find", "--model", str(place.folder / "vit"), "--data", str(folder),
            "--objective", "image-classification", "--sparsity", "0.4", "--plan"]  # fmt: skip


@attack(REFUSED, "has too many pixels")
def picture_bomb(place: Place) -> list[str]:
    """A PNG of a few bytes that says it has 2^60 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content
            + struct.pack(">I", zlib.crc32(kind + content))
        )  # fmt: skip

    header = struct.pack(">IIBBBBB", 1 << 30, 1 << 30, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    return _pictures(place, png + chunk(b"IEND", b""))


@attack(REFUSED, "is no picture")
def postscript_as_a_picture(place: Place) -> list[str]:
    """A PostScript program named as a PNG, which Pillow would hand to another program to run."""
    program = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n({place.canary}) (w) file\n"
    return _pictures(place, program.encode())


@attack(REFUSED, "is damaged or cut short")
def picture_cut_short(place: Place) -> list[str]:
    """A PNG whose second half is missing, with escape sequences in its name."""
    from little_images import pixels, png

    whole = png(pixels(0, 999, 64))
    return _pictures(place, whole[: len(whole) // 2], "\x1b[2Jowned.png")
