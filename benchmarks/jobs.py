"""How near an embedding job comes to a bare loop around ONNX Runtime, files and decoding included.

Both have all cores, the same JPEG files, and the same decoder (Pillow); ResNet-50 in int8.
"""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image

from benchmarks.networks import FLOAT, INT8, publish_resnet
from benchmarks.plan import Plan
from benchmarks.report import Table, ratio
from benchmarks.serving import CORES, pinned, serve
from forwardpass.artefact import MODEL_FILE

# A photograph of ImageNet's usual size.
_WIDTH, _HEIGHT = 500, 375
# Of a round: some seconds of int8, and a multiple of every batch.
_FILES = 208
# For memory: a small model, whose files cost the job and not the model.
_FEW, _MANY = 10_000, 60_000
_PROGRAM = str(Path(sys.executable).with_name("forwardpass"))

_BARE = """
import sys, time
from pathlib import Path
import numpy as np, onnxruntime
from forwardpass.pixels import decode_image
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
def batches(paths):
    for start in range(0, len(paths), 16):
        yield np.stack([decode_image(p.read_bytes(), 3, (224, 224)) for p in paths[start:start+16]])
paths = sorted(Path(sys.argv[2]).rglob("*.jpg"))
session.run(["embedding"], {"image": next(batches(paths))})
began = time.perf_counter()
for batch in batches(paths):
    session.run(["embedding"], {"image": batch})
print(time.perf_counter() - began)
"""

# What people write: a DataLoader that decodes in as many processes as there are cores.
_TORCH = """
import os, sys, time
from pathlib import Path
import torch
from torch.utils.data import DataLoader, Dataset
from forwardpass.pixels import decode_image
from forwardpass.trainer.zoo import find_architecture
class Files(Dataset):
    def __init__(self, folder): self.paths = sorted(Path(folder).rglob("*.jpg"))
    def __len__(self): return len(self.paths)
    def __getitem__(self, i):
        pixels = decode_image(self.paths[i].read_bytes(), 3, (224, 224))
        return torch.from_numpy(pixels.copy())
network = find_architecture("resnet-50").build().eval()
cores = len(os.sched_getaffinity(0))
loader = DataLoader(Files(sys.argv[1]), batch_size=16, num_workers=cores)
with torch.inference_mode():
    network(torch.zeros(16, 224, 224, 3, dtype=torch.uint8))
    began = time.perf_counter()
    for batch in loader:
        network(batch)
print(time.perf_counter() - began)
"""


@dataclass
class Way:
    """One way to embed the files.

    Attributes:
        name: What it is called.
        seconds: Has it done once, and returns how long it took, without starting and loading.
        rates: Files per second, of each round.
    """

    name: str
    seconds: Callable[[], float]
    rates: list[float] = field(default_factory=list)


def measure(plan: Plan) -> list[Table]:
    """Measures a job in process and through a server, beside a bare loop and a torch script."""
    networks = plan.models.parent / "networks"
    home = publish_resnet(50, networks)
    files = plan.scratch / "photos"
    _write_photos(files, _FILES, (_WIDTH, _HEIGHT))
    numbers = iter(range(1 << 30))

    def job(*where: str) -> float:
        out = plan.scratch / f"out-{next(numbers)}"
        return _job(files, out, *where)

    with serve(networks, cores=CORES) as server:
        ways = [
            Way("bare loop, int8", lambda: _script(_BARE, home / str(INT8) / MODEL_FILE, files)),
            Way("job in process, int8", lambda: job("--model", f"{home}/{INT8}")),
            Way(
                "job through a server, int8",
                lambda: job("--model", f"{home.name}:{INT8}", "--server", server.address),
            ),
            Way("job in process, float", lambda: job("--model", f"{home}/{FLOAT}")),
            Way("torch and a DataLoader, float", lambda: _script(_TORCH, files)),
        ]
        for number in range(plan.rounds):
            for way in ways[:: -1 if number % 2 else 1]:
                way.rates.append(_FILES / way.seconds())
        server.check_handled()
    return [_rates(ways, plan.rounds), _memory(plan)]


def _script(code: str, *arguments: Path) -> float:
    program = [sys.executable, "-c", code, *map(str, arguments)]
    ended = subprocess.run(pinned(program, CORES), stdout=subprocess.PIPE, text=True, check=True)
    return float(ended.stdout.split()[-1])


def _job(files: Path, out: Path, *where: str) -> float:
    """Returns how long a job took from its list to its last shard."""
    program = [_PROGRAM, "embed", str(files), "--out", str(out), "--json", *where]
    ended = subprocess.run(pinned(program, CORES), stdout=subprocess.PIPE, text=True, check=True)
    event = json.loads(ended.stdout.splitlines()[-1])
    assert event["event"] == "done", event
    assert event["vectors"] == _FILES, event
    return float(event["seconds"])


def _write_photos(folder: Path, count: int, size: tuple[int, int]) -> None:
    """Writes JPEG files that are as hard to decode as photographs: noise, but smooth."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        small = rng.integers(0, 256, (24, 32, 3), np.uint8)
        image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
        file = io.BytesIO()
        image.save(file, "JPEG", quality=90)
        (folder / f"{number:06}.jpg").write_bytes(file.getvalue())


def _rates(ways: list[Way], rounds: int) -> Table:
    bare, torch = ways[0], ways[-1]
    rows = [
        [
            way.name,
            f"{median(way.rates):,.1f}",
            ratio(way.rates, bare.rates, 3),
            ratio(way.rates, torch.rates, 3),
        ]
        for way in ways
    ]
    how = (
        f"Files per second of {_FILES} JPEG files of {_WIDTH} x {_HEIGHT}, decoding counted, "
        f"on all {len(CORES)} cores, without starting and loading. ResNet-50 with random weights. "
        "The bare loop decodes a batch of 16 and runs it with ONNX Runtime's threads; the server "
        f"has the same cores as its job. Median of {rounds} interleaved rounds."
    )
    columns = ["way", "files/s", "÷ bare loop", "÷ torch"]
    return Table("Embedding jobs", how, columns, rows)


def _memory(plan: Plan) -> Table:
    """Measures the most memory that a job takes of few files and of many."""
    folder = plan.scratch / "small"
    _write_photos(folder, _MANY, (32, 32))
    few = plan.scratch / "few.txt"
    paths = sorted(str(path) for path in folder.iterdir())
    few.write_text("\n".join(paths[:_FEW]) + "\n")
    many = plan.scratch / "many.txt"
    many.write_text("\n".join(paths) + "\n")
    peaks = []
    for name, listed in (("few", few), ("many", many)):
        model = str(max((plan.models / "mnist-resnet").iterdir()))
        program = [_PROGRAM, "embed", "--files-from", str(listed), "--model", model]
        program += ["--out", str(plan.scratch / name)]
        began = time.perf_counter()
        peaks.append((_peak(program), time.perf_counter() - began))
    (little, _), (much, seconds) = peaks
    slope = (much - little) / (_MANY - _FEW) * 1e6
    rows = [[f"{_FEW:,}", f"{little:,.0f} MB"], [f"{_MANY:,}", f"{much:,.0f} MB"]]
    how = (
        f"The most resident memory of a job's process, mnist-resnet on JPEG files of 32 x 32: "
        f"{slope:,.0f} bytes a file more, which its place in the list takes; "
        f"{_MANY / seconds:,.0f} files/s."
    )
    return Table("Memory of embedding jobs", how, ["files", "memory"], rows)


def _peak(program: list[str]) -> float:
    """Returns the most resident memory of a program, in 10**6 bytes."""
    code = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, "
        "stdout=subprocess.DEVNULL); "
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    ended = subprocess.run(
        pinned([sys.executable, "-c", code, *program], CORES),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return int(ended.stdout) * 1024 / 1e6
