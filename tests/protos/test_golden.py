"""Golden data that somebody else wrote: nothing is unpacked that was not measured first."""

import struct
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZipFile

import numpy as np
import pytest

from forwardpass.artefact import Golden, load_golden, parse_golden, save_golden
from forwardpass.wire import Array

IN, OUT = "inputs/x.npy", "outputs/y.npy"


def array(shape: tuple[int, ...], data: bytes, descr: object = "<f4") -> bytes:
    """An array whose header says one thing, with the bytes of another."""
    file = BytesIO()
    np.lib.format.write_array_header_2_0(
        file, {"descr": descr, "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + data


GOOD = array((1,), b"\0" * 4)


def packed(members: Mapping[str, bytes], method: int = ZIP_DEFLATED) -> bytes:
    file = BytesIO()
    with ZipFile(file, "w", method) as archive:
        for name, data in {IN: GOOD, OUT: GOOD, **members}.items():
            archive.writestr(name, data)
    return file.getvalue()


def many_members() -> bytes:
    return packed({f"inputs/{number}.npy": GOOD for number in range(2000)})


def huge_by_its_directory() -> bytes:
    """Unpacks to 300 MiB, and says so."""
    return packed({IN: bytes(300 << 20)})


def huge_behind_its_directory() -> bytes:
    """Unpacks to 64 MiB, and says that it is 100 bytes."""
    size = 64 << 20
    data = packed({IN: bytes(size)})
    return data.replace(struct.pack("<I", size), struct.pack("<I", 100))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (many_members, "2002 arrays; at most 1024"),
        (huge_by_its_directory, "unpacks to 3145"),
        (huge_behind_its_directory, "CRC|states"),
        (lambda: packed({IN: array((1 << 40,), b"\0" * 4)}), "has not the bytes"),
        (lambda: packed({IN: array((-1, -1), b"\0" * 4)}), "unknown dimension"),
        (lambda: packed({IN: array((1,), b"\0" * 8, "|O")}), "objects or records"),
        (lambda: packed({IN: array((1,), b"\0" * 4, [("a", "<f4")])}), "objects or records"),
        (lambda: packed({IN: array((2 << 20,), b"\0" * (8 << 20), "<U1")}), "2097152 texts"),
        (lambda: packed({IN: b"\x93NUMPY\x09\x09" + b"\0" * 100}), "version"),
        (lambda: packed({}, ZIP_BZIP2), "packed in a way that numpy does not use"),
        (lambda: b"no zip file", "not a zip file"),
    ],
)
def test_what_is_not_as_it_says_is_refused(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(Exception, match=reason):  # zipfile has errors of its own
        parse_golden(make())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_what_numpy_writes_is_read(tmp_path: Path, save: Callable[..., None]) -> None:
    arrays: dict[str, Array] = {
        "inputs/a": np.asfortranarray(np.arange(12, dtype=np.int16).reshape(3, 4)),
        "inputs/b": np.zeros((3, 0), np.float64),
        "inputs/c": np.array(["", "é", "three"]),
        "outputs/d": np.array([True, False, True]),
    }
    save(tmp_path / "golden.npz", **arrays)
    golden = load_golden(tmp_path / "golden.npz")
    for name, read in {
        **{f"inputs/{key}": value for key, value in golden.inputs.items()},
        **{f"outputs/{key}": value for key, value in golden.outputs.items()},
    }.items():
        assert read.shape == arrays[name].shape
        assert (read == arrays[name]).all()
        assert read.flags.writeable
    save_golden(tmp_path / "again.npz", Golden(golden.inputs, golden.outputs))
    assert load_golden(tmp_path / "again.npz").inputs["c"].tolist() == ["", "é", "three"]
