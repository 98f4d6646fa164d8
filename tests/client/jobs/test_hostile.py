"""A folder of everything that strangers' folders have in them: every entry is accounted for."""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

# Of `ulimit -v`, in KiB.
ADDRESS_SPACE = 4_000_000
# Takes from root what lets it read everything.
POWERLESS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search")


def png(mode: str, size: tuple[int, int], **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, "PNG", **options)
    return file.getvalue()


def jpeg(mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.new(mode, (30, 20), 0).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Good files are called good-*, those that have to be errors bad-*."""
    root = tmp_path / "hostile"
    root.mkdir()
    large = png("RGB", (9_000, 7_000), compress_level=1)
    good = {
        "good-16-bit.png": png("I;16", (40, 30)),
        "good-palette.png": png("P", (9, 9), transparency=0),
        "good-alpha.png": png("RGBA", (9, 9)),
        "good-1x1.png": png("1", (1, 1)),
        "good-thin.png": png("L", (60_000, 1)),
        "good-cmyk.jpg": jpeg("CMYK"),
        "good name\nwith a line end.png": png("L", (8, 8)),
        "good-SUFFIX.JPEG": jpeg(),
        **{f"good-large-{number}.png": large for number in range(6)},
    }
    bad = {
        "bad-empty.png": b"",
        "bad-text.png": b"GET / HTTP/1.1",
        "bad-cut.png": png("RGB", (500, 500))[:-40],
        "bad-cut.jpg": jpeg()[:50],
        "bad-bomb.png": png("1", (30_000, 30_000)),
        "bad-html.gif": b"GIF89a<html>",
        "bad-tiff.tif": b"II*\0" + b"\xff" * 64,
        "bad-webp.webp": b"RIFF\xff\xff\xff\xffWEBPVP8 " + b"\0" * 32,
        "bad-bmp.bmp": b"BM" + b"\xff" * 60,
    }
    for name, data in {**good, **bad}.items():
        (root / name).write_bytes(data)
    for raw in (b"good-\xff.png", b"good-\xfe.png"):
        Path(os.fsdecode(os.fsencode(root) + b"/" + raw)).write_bytes(png("L", (8, 8)))
    (root / "bad-secret.png").write_bytes(png("L", (8, 8)))
    (root / "bad-secret.png").chmod(0)
    with (root / "left-huge.png").open("wb") as file:
        file.truncate(1 << 40)
    os.mkfifo(root / "left-fifo.png")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(root / "left-socket.png"))
    (root / "left-device.png").symlink_to("/dev/zero")
    (root / "left-nowhere.png").symlink_to("nowhere")
    (root / "left-self.png").symlink_to("left-self.png")
    (root / "up").symlink_to(root)
    (root / "left-closed").mkdir()
    (root / "left-closed" / "hidden.png").write_bytes(png("L", (8, 8)))
    (root / "left-closed").chmod(0)
    (root / "left-broken.tar").write_bytes(b"no tar" * 300)
    with tarfile.open(root / "shard.tar", "w") as archive:
        for name, data in (("good-in.png", png("L", (8, 8))), ("bad-in.png", b"x")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    for name in ("photo.heic", "notes.txt", "Thumbs.db", "none"):
        (root / name).write_bytes(b"x")
    return root


def test_every_entry_of_a_hostile_folder_is_accounted_for(
    hostile: Path, model: Path, tmp_path: Path
) -> None:
    if os.getuid() == 0 and shutil.which(POWERLESS[0]) is None:
        pytest.skip("setpriv is not installed")
    out = tmp_path / "out"
    code = "from forwardpass.client.cli import main; main()"
    limited = f'ulimit -v {ADDRESS_SPACE} && exec "$@"'
    ended = subprocess.run(
        [
            *(POWERLESS if os.getuid() == 0 else ()),
            *("sh", "-c", limited, "sh", sys.executable, "-c", code),
            *("embed", hostile, "--model", model, "--out", out, "--json"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={name: value for name, value in os.environ.items() if name != "FORWARDPASS_SERVER"},
    )
    assert ended.returncode == 7, ended.stderr
    done = json.loads(ended.stdout.splitlines()[-1])

    def names(table: str) -> list[bytes]:
        found = parquet.read_table(out / table).to_pylist()
        return sorted(
            (row.get("name") or "").encode() or row["path"].rpartition(b"/")[2] for row in found
        )

    vectors, errors, left_out = names("vectors"), names("errors"), names("left-out.parquet")
    assert all(name.startswith(b"good") for name in vectors)
    assert all(name.startswith(b"bad") for name in errors)
    assert all(name.startswith(b"left") for name in left_out)
    everything = {os.fsencode(entry.name) for entry in os.scandir(hostile)}
    named = everything - {b"up", b"shard.tar", b"photo.heic", b"notes.txt", b"Thumbs.db", b"none"}
    assert sorted(named | {b"good-in.png", b"bad-in.png"}) == sorted(vectors + errors + left_out)
    assert done["skipped"] == {"": 1, ".db": 1, ".heic": 1, ".txt": 1}
    assert (done["vectors"], done["errors"]) == (len(vectors), len(errors))
    assert np.isfinite(
        np.stack(parquet.read_table(out / "vectors")["embedding"].to_numpy(zero_copy_only=False))
    ).all()
