"""Descriptors that are kept: had when they are asked for, and got back."""

import os
from pathlib import Path

from forwardpass.server.process.descriptors import Reserve


def is_null(descriptor: int) -> bool:
    return os.path.samestat(os.fstat(descriptor), Path(os.devnull).stat())


def is_open(descriptor: int) -> bool:
    return Path(f"/proc/self/fd/{descriptor}").exists()


def test_a_reserve_gives_what_it_has_and_takes_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    reserve = Reserve(2)
    try:
        assert [reserve.release() for _ in range(3)] == [True, True, False]
        used = [os.open(tmp_path / "file", os.O_RDONLY) for _ in range(3)]
        for descriptor in used:
            assert not is_null(descriptor)
            reserve.take_back(descriptor)
        # The file is open no more, and two of its descriptors are not free.
        assert all(is_null(descriptor) for descriptor in used[:2])
        assert not is_open(used[2])
        assert not os.get_inheritable(used[0])
    finally:
        reserve.close()
    assert not any(is_open(descriptor) for descriptor in used)
    reserve.close()
    late = os.open(tmp_path / "file", os.O_RDONLY)
    reserve.take_back(late)
    assert not is_open(late)
