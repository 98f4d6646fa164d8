"""The .proto files that clients in other languages are generated from."""

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from run_commands import Command

ROOT = Path(__file__).parents[2]
# A megabyte, of which the wheel stays below.
MEGABYTE = 1 << 20
SERVICES = {
    "forwardpass.v1.InferenceService",
    "forwardpass.v1.ModelService",
    "grpc.health.v1.Health",
    "inference.GRPCInferenceService",
}


@pytest.fixture
def written(run_command: Command, tmp_path: Path) -> Path:
    """The folder that the command has written."""
    out = tmp_path / "new" / "protos"
    assert run_command("protos", "--out", out).code == 0
    return out


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.proto"))


def compile_all(folder: Path, *arguments: str) -> None:
    """Has protoc read every file; it knows of no other folder to import from but its own."""
    command = [str(Path(sys.executable).with_name("protoc")), f"-I{folder}", *arguments]
    ended = subprocess.run(
        [*command, *names(folder)], capture_output=True, text=True, timeout=60, check=False
    )
    # A warning would be for an import that nothing uses.
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_the_files_compile_as_they_lie(written: Path, tmp_path: Path) -> None:
    target = tmp_path / "all.binpb"
    compile_all(written, f"--descriptor_set_out={target}", "--include_imports")
    files = FileDescriptorSet.FromString(target.read_bytes()).file
    found = {f"{file.package}.{service.name}" for file in files for service in file.service}
    assert found == SERVICES
    messages = {f"{file.package}.{each.name}" for file in files for each in file.message_type}
    # What the details of an error are made of.
    assert {"google.rpc.Status", "google.rpc.ErrorInfo", "google.rpc.BadRequest"} <= messages


def test_java_and_cpp_stubs_are_made_of_them(written: Path, tmp_path: Path) -> None:
    java, cpp = tmp_path / "java", tmp_path / "cpp"
    java.mkdir()
    cpp.mkdir()
    compile_all(written, f"--java_out={java}", f"--cpp_out={cpp}")
    assert (java / "forwardpass" / "v1" / "InferenceServiceOuterClass.java").is_file()
    assert (java / "com" / "google" / "rpc" / "ErrorInfo.java").is_file()
    headers = sorted(
        path.relative_to(cpp).as_posix().removesuffix(".pb.h") for path in cpp.rglob("*.pb.h")
    )
    assert headers == [name.removesuffix(".proto") for name in names(written)]


def test_the_files_are_told_and_are_the_contract_s_own(
    run_command: Command, written: Path, tmp_path: Path
) -> None:
    ended = run_command("protos", "--out", tmp_path / "again")
    told = [tmp_path / "again" / name for name in names(written)]
    assert ended.out.splitlines()[: len(told)] == [str(path) for path in told]
    for folder in ("forwardpass/v1", "open_inference", "grpc/health/v1"):
        sources = sorted((ROOT / "protos" / folder).glob("*.proto"))
        assert sources
        assert [(written / folder / source.name).read_bytes() for source in sources] == [
            source.read_bytes() for source in sources
        ]


def test_what_it_has_written_is_written_again(run_command: Command, written: Path) -> None:
    old = written / "forwardpass" / "v1" / "tensor.proto"
    old.write_text("of an older release", encoding="utf-8")
    (written / "open_inference" / "grpc_service.proto").unlink()
    assert run_command("protos", "--out", written).code == 0
    assert old.read_bytes() == (ROOT / "protos/forwardpass/v1/tensor.proto").read_bytes()
    assert (written / "open_inference" / "grpc_service.proto").is_file()


def test_a_folder_with_another_file_is_left_alone(run_command: Command, tmp_path: Path) -> None:
    sources = tmp_path / "google" / "rpc"
    sources.mkdir(parents=True)
    (sources / "status.proto").write_text("somebody's", encoding="utf-8")
    (tmp_path / "buf.yaml").touch()
    ended = run_command("protos", "--out", tmp_path)
    assert ended.code == 2
    assert "buf.yaml is none of the files that are written" in ended.err
    assert (sources / "status.proto").read_text(encoding="utf-8") == "somebody's"
    assert not (tmp_path / "forwardpass").exists()
    ended = run_command("protos", "--out", tmp_path / "buf.yaml")
    assert ended.code == 2
    assert "is a file" in ended.err


@pytest.mark.heavy
def test_a_wheel_has_them_and_is_small(run_command: Command, tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    subprocess.run([*build, tmp_path / "wheel", ROOT], check=True, timeout=300)
    (wheel,) = (tmp_path / "wheel").iterdir()
    assert wheel.stat().st_size < MEGABYTE
    installed = tmp_path / "installed"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    assert run_command("protos", "--out", tmp_path / "protos").code == 0
    places = {
        "forwardpass": installed / "forwardpass",
        "grpc": installed / "forwardpass/client/proto_files/grpc",
        "open_inference": installed / "forwardpass/client/proto_files/open_inference",
    }
    for folder, place in places.items():
        written = names(tmp_path / "protos" / folder)
        assert written
        assert written == names(place) if folder != "forwardpass" else written
        for name in written:
            assert (place / name).read_bytes() == (tmp_path / "protos" / folder / name).read_bytes()
