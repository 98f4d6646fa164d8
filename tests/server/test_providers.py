"""What runs the models is what was asked for, or the server does not start."""

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest
from conftest import StartServer
from tiny_models import Publisher, classifier

from forwardpass.server.onnx.providers import (
    CPU,
    CPU_ONLY,
    CUDA,
    CudaOptions,
    Provider,
    ProviderError,
    check_taken,
    choose,
)
from forwardpass.server.onnx.session import check_providers
from forwardpass.server.settings import Settings, SettingsError
from forwardpass.server.settings_sources import load
from forwardpass.v1.model_service_pb2 import GetModelRequest, ModelReference

OPTIONS = CudaOptions(
    1,
    1 << 30,
    "kSameAsRequested",
    "HEURISTIC",
    do_copy_in_default_stream=True,
    use_tf32=False,
    enable_cuda_graph=True,
)
without_cuda = pytest.mark.skipif(
    CUDA in ort.get_available_providers(), reason="ONNX Runtime has CUDA here"
)


def test_the_cpu_when_asked_for(repository: Publisher, start_server: StartServer) -> None:
    repository("clf", classifier())
    running = start_server(providers=("cpu",))
    request = GetModelRequest(model=ModelReference(name="clf"))
    assert list(running.models.GetModel(request).model.providers) == [CPU]


def test_the_order_is_kept_and_options_have_onnx_runtime_s_form() -> None:
    assert choose(("cpu",), OPTIONS) == CPU_ONLY
    cuda, cpu = choose(("cuda", "cpu"), OPTIONS)
    assert cpu == Provider(CPU)
    assert cuda.name == CUDA
    assert cuda.options == {
        "device_id": "1",
        "gpu_mem_limit": "1073741824",
        "arena_extend_strategy": "kSameAsRequested",
        "cudnn_conv_algo_search": "HEURISTIC",
        "do_copy_in_default_stream": "1",
        "use_tf32": "0",
        "enable_cuda_graph": "1",
    }
    assert cuda.device == ("cuda", 1)
    assert cuda.captures


@pytest.mark.parametrize(
    "arguments", [["--providers", "cuda,cpu"], ["--providers", "cuda", "--providers", "cpu"]]
)
def test_the_setting_is_a_list(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(["models"]).providers == ("cpu",)
    assert load(["models", *arguments]).providers == ("cuda", "cpu")
    assert Settings(models=Path("models"), providers=["cuda"]).providers == ("cuda",)
    monkeypatch.setenv("FORWARDPASS_PROVIDERS", "cuda, cpu")
    assert load(["models"]).providers == ("cuda", "cpu")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("cdua", r"no provider 'cdua' \(did you mean 'cuda'\?\); there are cpu, cuda"),
        ("cpu,cpu", "a provider is named twice"),
        ("", "no provider ''"),
    ],
)
def test_an_unknown_provider_names_the_nearest(given: str, message: str) -> None:
    with pytest.raises(SettingsError, match=f"setting 'providers': {message}"):
        load(["models", "--providers", given])


def test_a_setting_for_gpus_without_one_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(["models", "--providers", "cuda", "--cuda-graph"]).cuda_graph
    with pytest.raises(SettingsError, match=r"setting 'cuda_graph' is for GPUs, but .* are cpu"):
        load(["models", "--cuda-graph"])
    monkeypatch.setenv("FORWARDPASS_CUDA_DEVICE", "1")
    with pytest.raises(SettingsError, match="setting 'cuda_device' is for GPUs"):
        load(["models"])


@without_cuda
@pytest.mark.parametrize("command", [[], ["check"]])
def test_a_missing_provider_stops_the_start_and_names_the_package(
    repository: Publisher, command: list[str]
) -> None:
    repository("clf", classifier())
    code = "from forwardpass.server.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code, *command, str(repository.root), "--providers", "cuda,cpu"],
        env=os.environ | {"FORWARDPASS_PORT": "0", "FORWARDPASS_METRICS_PORT": "0"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert f"the installed ONNX Runtime has no {CUDA}" in result.stderr
    assert "pip install 'forwardpass[server-cuda]'" in result.stderr
    assert "Traceback" not in result.stderr


def test_two_packages_of_onnx_runtime_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_providers(CPU_ONLY)
    for package in ("onnxruntime", "onnxruntime-gpu"):
        folder = tmp_path / f"{package.replace('-', '_')}-1.27.0.dist-info"
        folder.mkdir()
        metadata = f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.27.0\n"
        (folder / "METADATA").write_text(metadata)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ProviderError, match="onnxruntime and onnxruntime-gpu are both installed"):
        check_providers(CPU_ONLY)


def test_what_a_session_took_up_is_compared_with_what_was_asked_for() -> None:
    asked = choose(("cuda", "cpu"), OPTIONS)
    taken = {CUDA: {**asked[0].options, "prefer_nhwc": "0"}, CPU: {}}
    check_taken(asked, taken)
    check_taken(asked[:1], taken)
    with pytest.raises(ProviderError, match=f"but ONNX Runtime took {CPU}: its log"):
        check_taken(asked, {CPU: {}})
    with pytest.raises(ProviderError, match="asked for CUDA"):
        check_taken(asked, {CPU: {}, CUDA: taken[CUDA]})
    with pytest.raises(ProviderError, match="was given device_id=1, but has 0"):
        check_taken(asked, {**taken, CUDA: {**taken[CUDA], "device_id": "0"}})
