"""What `forwardpass.trainer` offers to a program."""

import subprocess
import sys

import pytest

import forwardpass.trainer


def test_every_public_name_is_there_and_has_its_words() -> None:
    public = forwardpass.trainer.__all__
    assert public == sorted(public)
    assert set(public) == set(forwardpass.trainer._HOME_OF) == set(dir(forwardpass.trainer))
    for name in public:
        assert getattr(forwardpass.trainer, name).__doc__, name


def test_another_name_is_told_as_every_module_tells_it() -> None:
    with pytest.raises(AttributeError, match=r"'forwardpass\.trainer' has no attribute 'publsh'"):
        _ = forwardpass.trainer.publsh


def test_nothing_heavy_is_loaded_until_a_name_is_asked_for() -> None:
    code = "import forwardpass.trainer, sys; print({'torch', 'sklearn', 'numpy'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
