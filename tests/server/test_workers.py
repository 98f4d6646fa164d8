"""Several processes on one port: who answers, what is counted, what becomes of one that ends."""

import os
import select
import signal
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from certificates import Authority
from onnx import TensorProto
from prometheus_client.parser import text_string_to_metric_families
from server.test_process import ServerProcess, run, serving, steps, wait_until_in_flight
from tiny_models import Publisher, busy, echo, endless

from forwardpass.server import build
from forwardpass.server.process.memory import memory
from forwardpass.server.settings import Settings, SettingsError
from forwardpass.server.settings_sources import load
from forwardpass.server.workers.aggregate import Aggregate, Family
from forwardpass.server.workers.port import Port
from forwardpass.v1.inference_service_pb2 import PredictRequest
from forwardpass.v1.inference_service_pb2_grpc import InferenceServiceStub
from forwardpass.v1.model_service_pb2 import ModelReference
from forwardpass.wire import from_tensor, to_tensor

# The kernel chooses a worker for each: that one of two gets none happens once in 2**31 times.
CONNECTIONS = 32


@pytest.fixture
def real(repository: Publisher) -> Path:
    """A repository of one model, which gives back its input."""
    repository("real", echo(TensorProto.FLOAT, ["n"]))
    return repository.root


def metrics_of(server: ServerProcess) -> str:
    (address,) = {line["metrics"] for line in server.lines if "metrics" in line}
    return str(address)


def get(server: ServerProcess, path: str) -> tuple[int, str]:
    try:
        url = f"http://{metrics_of(server)}{path}"
        with urllib.request.urlopen(url, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def samples(server: ServerProcess, name: str, **labels: str) -> list[float]:
    """Returns the values of a sample, wherever it has these labels."""
    return [
        sample.value
        for family in text_string_to_metric_families(get(server, "/metrics")[1])
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]


def answered(server: ServerProcess) -> list[float]:
    return samples(server, "grpc_server_handled_total", grpc_method="Predict", grpc_code="OK")


@contextmanager
def connections(server: ServerProcess, count: int) -> Iterator[Sequence[InferenceServiceStub]]:
    with ExitStack() as stack:
        yield [
            InferenceServiceStub(
                stack.enter_context(
                    grpc.insecure_channel(
                        f"127.0.0.1:{server.port}", [("grpc.use_local_subchannel_pool", 1)]
                    )
                )
            )
            for _ in range(count)
        ]


def call_over_many_connections(server: ServerProcess) -> None:
    """Makes one call over each of `CONNECTIONS` connections."""
    with connections(server, CONNECTIONS) as stubs:
        for number, stub in enumerate(stubs):
            values = np.array([number, number + 1], np.float32)
            request = PredictRequest(
                model=ModelReference(name="real"), inputs={"x": to_tensor(values)}
            )
            answer = stub.Predict(request, timeout=60)
            assert from_tensor(answer.outputs["y"]).tolist() == values.tolist()


def workers_of(server: ServerProcess) -> list[int]:
    """Returns the process ids of the workers."""
    return children_of(server.pid)


def children_of(pid: int) -> list[int]:
    found: list[int] = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        # It may have ended since.
        with suppress(FileNotFoundError, ProcessLookupError):
            found += map(int, thread.read_text("ascii").split())
    return sorted(found)


@contextmanager
def ends_of(pids: Sequence[int]) -> Iterator[Sequence[int]]:
    """Gives a descriptor for each process, which can be read once that has ended."""
    descriptors = [os.pidfd_open(pid) for pid in pids]
    try:
        yield descriptors
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def wait_for_ends(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        assert select.select([descriptor], [], [], 60)[0], "the process goes on"


@pytest.mark.parametrize("host", ["::1", "[::]"])
def test_workers_share_an_address_of_ipv6(real: Path, host: str) -> None:
    with serving(real, "--workers", "2", "--host", host, "--metrics-host", host) as server:
        server.wait_for("ready")
        assert server.address == f"[{host.strip('[]')}]:{server.port}"
        assert get(server, "/readyz") == (200, "ready\n")
        with grpc.insecure_channel(server.address) as channel:
            request = PredictRequest(
                model=ModelReference(name="real"), inputs={"x": to_tensor(np.ones(1, np.float32))}
            )
            answer = InferenceServiceStub(channel).Predict(request, timeout=60)
        assert from_tensor(answer.outputs["y"]).tolist() == [1]


def test_both_workers_answer_and_the_metrics_are_of_both(real: Path, transport: str) -> None:
    flags = ("--workers", "2", "--transport", transport, "--log-level", "debug")
    with serving(real, *flags) as server:
        assert server.wait_for("ready")["workers"] == 2
        # What a terminal sends to its group is for the supervisor.
        assert [os.getpgid(pid) for pid in workers_of(server)] == workers_of(server)
        assert get(server, "/readyz") == (200, "ready\n")
        assert get(server, "/livez") == (200, "alive\n")
        call_over_many_connections(server)
        assert answered(server) == [CONNECTIONS]
        assert samples(server, "nv_inference_request_success", model="real") == [CONNECTIONS]
        compute = {"model": "real", "phase": "compute"}
        assert samples(server, "forwardpass_phase_seconds_count", **compute) == [CONNECTIONS]
        assert samples(server, "forwardpass_phase_seconds_bucket", le="+Inf", **compute) == [
            CONNECTIONS
        ]
        assert samples(server, "grpc_server_handling_seconds_count", grpc_method="Predict") == [
            CONNECTIONS
        ]
        # A sum, but for the time.
        (descriptors,) = samples(server, "process_open_fds")
        own = [len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in workers_of(server)]
        assert descriptors > max(own)
        (started,) = samples(server, "process_start_time_seconds")
        assert started < 1.5 * Path(f"/proc/{server.pid}").stat().st_ctime
        (busy,) = samples(server, "forwardpass_busy_seconds_total", model="real")
        assert busy > 0
        # What they share is no sum.
        (limit,) = samples(server, "forwardpass_memory_limit_bytes")
        assert limit == memory().limit
        assert samples(server, "forwardpass_ready") == [1]
        assert samples(server, "forwardpass_model_info", model="real") == [1]
        assert samples(server, "forwardpass_calls_in_flight") == [0]
        server.signal(signal.SIGTERM)
        assert server.finish() == 0
    called = [line["worker"] for line in server.lines if line["event"] == "call"]
    assert len(called) == CONNECTIONS
    assert set(called) == {0, 1}
    assert server.lines[-1]["event"] == "stopped"


def test_a_killed_worker_is_started_again_and_what_it_counted_stays(real: Path) -> None:
    with serving(real, "--workers", "2") as server:
        server.wait_for("ready")
        call_over_many_connections(server)
        assert answered(server) == [CONNECTIONS]
        os.kill(workers_of(server)[0], signal.SIGKILL)
        ended = server.wait_for("worker_ended")
        assert ended["how"] == "ended with SIGKILL"
        assert answered(server) == [CONNECTIONS]
        # While it is away, and when it is back.
        call_over_many_connections(server)
        server.wait_for("ready", worker=ended["number"])
        call_over_many_connections(server)
        assert answered(server) == [3 * CONNECTIONS]
        assert samples(server, "nv_inference_request_success") == [3 * CONNECTIONS]
        assert samples(server, "forwardpass_worker_restarts_total") == [1]
        assert len(workers_of(server)) == 2
        server.signal(signal.SIGTERM)
        assert server.finish() == 0


def warm_up(repository: Publisher, steps: int, count: int) -> None:
    """Publishes the busy model, which then takes so many steps so often before it is ready."""
    repository("busy", busy())
    folder = repository.root / "busy"
    (folder / "warmup").mkdir()
    (folder / "warmup" / "steps").write_bytes(np.int64(steps).tobytes())
    source = 'data_type: TYPE_INT64 dims: [] input_data_file: "steps"'
    inputs = f'inputs {{ key: "steps" value {{ {source} }} }}'
    config = f'model_warmup {{ name: "w" count: {count} {inputs} }}'
    (folder / "config.pbtxt").write_text(config)


def kill_a_worker(server: ServerProcess) -> int:
    """Kills a worker, and returns its number once it has ended."""
    victim = workers_of(server)[0]
    with ends_of([victim]) as ends:
        os.kill(victim, signal.SIGKILL)
        wait_for_ends(ends)
    number: int = server.wait_for("worker_ended")["number"]
    return number


def test_t123_no_connection_goes_to_a_worker_that_has_not_loaded(
    repository: Publisher, transport: str
) -> None:
    warm_up(repository, steps=5_000, count=10)
    outcomes: list[str] = []
    enough = threading.Event()

    def call() -> None:
        while not enough.is_set():
            with connections(server, 1) as stubs:
                try:
                    stubs[0].Predict(steps(1), timeout=60)
                    outcomes.append("OK")
                except grpc.RpcError as error:
                    outcomes.append(f"{error.code().name}: {error.details()}")

    flags = ("--workers", "2", "--no-sandbox", "--transport", transport, "--log-level", "debug")
    with serving(repository.root, *flags) as server:
        server.wait_for("ready")
        number = kill_a_worker(server)
        caller = threading.Thread(target=call)
        caller.start()
        try:
            server.wait_for("listening", worker=number)
            server.wait_for("call", worker=number)
        finally:
            enough.set()
            caller.join(60)
        assert set(outcomes) == {"OK"}
        assert get(server, "/livez")[0] == 200


def test_a_worker_that_is_started_again_listens_although_no_model_loads(
    repository: Publisher,
) -> None:
    folder = repository("real", echo(TensorProto.FLOAT, ["n"]))
    with serving(repository.root, "--workers", "2") as server:
        server.wait_for("ready")
        (folder / "model.onnx").write_bytes(b"no graph")
        number = kill_a_worker(server)
        server.wait_for("not_ready", worker=number)
        server.wait_for("listening", worker=number)
        assert get(server, "/readyz") == (503, "not ready\n")
        assert get(server, "/livez") == (200, "alive\n")
        # The other one answers, as it has the model.
        codes: set[grpc.StatusCode | None] = set()
        with connections(server, CONNECTIONS) as stubs:
            request = PredictRequest(
                model=ModelReference(name="real"), inputs={"x": to_tensor(np.ones(1, np.float32))}
            )
            for stub in stubs:
                call: Any = stub.Predict.future(request, timeout=60)
                codes.add(call.code())
        assert codes == {grpc.StatusCode.OK, grpc.StatusCode.FAILED_PRECONDITION}
        server.signal(signal.SIGTERM)
        assert server.finish() == 0


def test_sigterm_ends_a_worker_that_loads_before_it_listens(repository: Publisher) -> None:
    repository("real", echo(TensorProto.FLOAT, ["n"]))
    flags = ("--workers", "2", "--sandbox-seconds", "100000", "--drain-seconds", "0")
    with serving(repository.root, *flags) as server:
        server.wait_for("ready")
        repository("endless", endless())
        kill_a_worker(server)
        # It tries the graph in a process of its own.
        while not any(children_of(pid) for pid in workers_of(server)):
            pass
        assert get(server, "/livez") == (200, "alive\n")
        server.signal(signal.SIGTERM)
        # Who does not end in time is cut off, and that is no 0.
        assert server.finish() == 0


def test_a_worker_that_does_not_end_is_killed_and_that_is_no_0(real: Path) -> None:
    with serving(real, "--workers", "2", "--drain-seconds", "0") as server:
        server.wait_for("ready")
        os.kill(workers_of(server)[1], signal.SIGSTOP)
        server.signal(signal.SIGTERM)
        assert server.process.stderr is not None
        *lines, last = server.process.stderr
        assert last == "forwardpass-serve: error: cut off what did not end in time: worker 1\n"
        assert any('"worker_killed"' in line for line in lines)
        assert server.process.wait(60) == 1


def test_a_worker_that_keeps_ending_is_told_by_the_probes_and_the_others_answer(
    real: Path,
) -> None:
    with serving(real, "--workers", "2") as server:
        server.wait_for("ready")
        away = real.rename(real.with_name("away"))
        os.kill(workers_of(server)[0], signal.SIGKILL)
        number = server.wait_for("worker_ended")["number"]
        for _ in range(4):
            ended = server.wait_for("worker_ended")
            assert ended["number"] == number
            assert "is no folder" in ended["reason"]
        assert get(server, "/livez") == (503, "not alive\n")
        assert get(server, "/readyz") == (503, "not ready\n")
        call_over_many_connections(server)
        away.rename(real)
        server.wait_for("listening", worker=number)
        # It tells the supervisor at the same time as the log.
        while get(server, "/readyz") != (200, "ready\n"):
            pass


def test_a_worker_that_hangs_is_told_by_livez_and_its_counts_stay(real: Path) -> None:
    with serving(real, "--workers", "2") as server:
        server.wait_for("ready")
        call_over_many_connections(server)
        assert answered(server) == [CONNECTIONS]
        stopped = workers_of(server)[0]
        os.kill(stopped, signal.SIGSTOP)
        assert get(server, "/livez")[0] == 503
        assert answered(server) == [CONNECTIONS]
        os.kill(stopped, signal.SIGCONT)
        assert get(server, "/livez")[0] == 200


def test_what_both_workers_accepted_is_finished_after_sigterm(repository: Publisher) -> None:
    repository("busy", busy())
    with (
        serving(repository.root, "--workers", "2") as server,
        connections(server, 8) as stubs,
    ):
        server.wait_for("ready")
        # Each worker runs one of these for as long as its caller stays.
        endless = [stub.Predict.future(steps(100_000_000), timeout=100) for stub in stubs]
        wait_until_in_flight(metrics_of(server), len(endless))
        calls = [stub.Predict.future(steps(10), timeout=100) for stub in stubs]
        wait_until_in_flight(metrics_of(server), len(endless) + len(calls))
        server.signal(signal.SIGTERM)
        server.wait_for("draining")
        for call in endless:
            call.cancel()
        for call in calls:
            assert from_tensor(call.result().outputs["size"]).tolist() == [64, 64]
        assert server.finish() == 0
    ends = {line["worker"]: line for line in server.lines if "unfinished" in line}
    assert [ends[worker]["unfinished"] for worker in (0, 1)] == [0, 0]


def test_a_second_signal_ends_the_workers_at_once(repository: Publisher) -> None:
    repository("busy", busy())
    with (
        serving(repository.root, "--workers", "2") as server,
        connections(server, 1) as stubs,
        ends_of(workers_of(server)) as ends,
    ):
        server.wait_for("ready")
        call = stubs[0].Predict.future(steps(10_000_000), timeout=100)
        wait_until_in_flight(metrics_of(server), 1)
        server.signal(signal.SIGTERM)
        server.wait_for("draining")
        server.signal(signal.SIGTERM)
        assert server.process.wait(60) == 128 + signal.SIGTERM
        wait_for_ends(ends)
        with pytest.raises(grpc.RpcError) as caught:
            call.result()
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE


def test_no_worker_outlives_the_supervisor(real: Path) -> None:
    with serving(real, "--workers", "2") as server, ends_of(workers_of(server)) as ends:
        assert len(ends) == 2
        server.signal(signal.SIGKILL)
        wait_for_ends(ends)


@pytest.mark.parametrize(("first", "second"), [("1", "2"), ("2", "1"), ("2", "2")])
def test_a_second_server_on_the_port_does_not_start(real: Path, first: str, second: str) -> None:
    with serving(real, "--workers", first) as server:
        port = str(server.port)
        result = run(str(real), "--workers", second, "--port", port, "--metrics-port", "0")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == (
        "forwardpass-serve: error: settings 'host' and 'port': cannot listen on "
        f"127.0.0.1:{port}: Address already in use: is another server there?"
    )


def test_what_cannot_start_says_what_one_process_says(
    real: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(real.parent)
    with listen(0) as taken:
        port = str(taken.getsockname()[1])
        for flags in (
            ["nowhere", "--metrics-port", "0"],
            ["models", "--metrics-port", "0", "--tls-key", "k.pem"],
            ["models", "--metrics-port", port],
        ):
            one, two = (run(*flags, "--port", "0", "--workers", number) for number in ("1", "2"))
            assert two.returncode == one.returncode == 1
            assert two.stderr == one.stderr
            assert len(two.stderr.splitlines()) == 1


def test_management_calls_are_refused_with_workers() -> None:
    with pytest.raises(SettingsError, match="LoadModel would reach one of them"):
        load(["models", "--workers", "2", "--management-port", "8003"])
    load(["models", "--workers", "1", "--management-port", "8003"])


def test_a_socket_is_not_shared_by_workers(tmp_path: Path) -> None:
    host = f"unix:{tmp_path}/socket"
    with pytest.raises(SettingsError, match="'host' is a socket"):
        load(["models", "--workers", "2", "--host", host])
    load(["models", "--workers", "1", "--host", host])


@pytest.mark.parametrize(
    ("workers", "given", "threads"), [(1, 0, 8), (2, 0, 4), (3, 0, 2), (16, 0, 1), (2, 8, 8)]
)
def test_cores_are_divided(
    real: Path, monkeypatch: pytest.MonkeyPatch, workers: int, given: int, threads: int
) -> None:
    monkeypatch.setattr(build, "available_cores", lambda: 8)
    options = build.open_repository(Settings(models=real, workers=workers, threads=given))._options
    assert options.threads == threads
    assert options.cores == max(1, 8 // workers)


def listen(port: int, *options: int) -> socket.socket:
    one = socket.socket()
    try:
        for option in (socket.SO_REUSEADDR, *options):
            one.setsockopt(socket.SOL_SOCKET, option, 1)
        one.bind(("127.0.0.1", port))
        one.listen()
    except OSError:
        one.close()
        raise
    return one


def test_a_held_port_takes_listeners_that_share_it_and_no_others() -> None:
    held = Port("127.0.0.1", 0)
    try:
        with pytest.raises(OSError, match="is another server there"):
            Port("127.0.0.1", held.number)
        with pytest.raises(OSError, match="in use"):
            listen(held.number)
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", held.number), 60)
        workers = [listen(held.number, socket.SO_REUSEPORT) for _ in range(2)]
        socket.create_connection(("127.0.0.1", held.number), 60).close()
        with pytest.raises(OSError, match="in use"):
            listen(held.number)
        for worker in workers:
            worker.close()
        # Also while none of them lives.
        with pytest.raises(OSError, match="is another server there"):
            Port("127.0.0.1", held.number)
    finally:
        held.close()
    listen(held.number).close()


def test_a_port_is_not_taken_from_one_who_shares_it() -> None:
    with (
        listen(0, socket.SO_REUSEPORT) as other,
        pytest.raises(OSError, match="is another server there"),
    ):
        Port("127.0.0.1", other.getsockname()[1])


def test_a_port_can_be_had_at_once_after_its_last_connection() -> None:
    with listen(0) as before:
        port = before.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), 60) as caller:
            # Who closes first waits for a minute, here as in a server that drains.
            before.accept()[0].close()
            assert caller.recv(1) == b""
    Port("127.0.0.1", port).close()


def test_every_address_of_a_name_is_held() -> None:
    held = Port("localhost", 0)
    try:
        for family, _, _, _, address in socket.getaddrinfo("localhost", held.number):
            with socket.socket(family) as one, pytest.raises(OSError, match="in use"):
                one.bind(address)
    finally:
        held.close()


def test_every_worker_reads_a_new_certificate_and_the_metrics_port_too(
    real: Path, tmp_path: Path
) -> None:
    authority = Authority()
    old, new = authority.issue(days=1), authority.issue(days=5)
    certificate, key = old.write(tmp_path)
    context = ssl.create_default_context(cadata=authority.certificate.decode())
    flags = ("--tls-certificate", str(certificate), "--tls-key", str(key), "--metrics-tls")
    with serving(real, "--workers", "2", *flags) as server:
        server.wait_for("ready")
        port = int(metrics_of(server).rpartition(":")[2])

        def certificates() -> dict[str, float]:
            url = f"https://localhost:{port}/metrics"
            with urllib.request.urlopen(url, timeout=60, context=context) as answer:
                text = answer.read().decode()
            return {
                family.name.removeprefix("forwardpass_certificate_"): family.samples[0].value
                for family in text_string_to_metric_families(text)
                if family.name.startswith("forwardpass_certificate_")
            }

        def shown(port: int) -> int:
            with (
                socket.create_connection(("localhost", port), 60) as one,
                context.wrap_socket(one, server_hostname="localhost") as secured,
            ):
                return int(str((secured.getpeercert() or {})["serialNumber"]), 16)

        assert certificates() == {"expires_seconds": old.expires, "failing": 0}
        key.write_bytes(new.key)
        while not certificates()["failing"]:
            pass
        assert shown(server.port) == shown(port) == old.serial
        new.write(tmp_path)
        while certificates() != {"expires_seconds": new.expires, "failing": 0}:
            pass
        assert {shown(server.port) for _ in range(CONNECTIONS)} == {new.serial}
        while shown(port) != new.serial:
            pass
        server.process.terminate()
        assert server.finish() == 0
    told = [(line.get("worker"), line["event"]) for line in server.lines if "expires" in line]
    assert "certificates_kept" in {event for _, event in told}
    for worker in (0, 1, None):
        assert told.count((worker, "certificates")) == 1


def test_t138_a_certificate_that_cannot_be_used_is_told_by_a_server_with_workers(
    real: Path, tmp_path: Path
) -> None:
    nowhere = str(tmp_path / "no.pem")
    flags = ("--workers", "2", "--tls-certificate", nowhere, "--tls-key", nowhere)
    for more in ((), ("--metrics-tls",)):
        ended = run(str(real), "--port", "0", "--metrics-port", "0", *flags, *more)
        assert ended.returncode == 1
        assert ended.stderr.splitlines()[-1] == (
            f"forwardpass-serve: error: setting 'tls_certificate': cannot read {nowhere}: "
            "No such file or directory"
        )


def counted(value: float, version: str = "1", waiting: float = 0) -> list[Family]:
    labels = {"model": "m", "version": version}
    return [
        ("calls", "Calls.", "counter", [("calls_total", {}, value)]),
        ("rows", "Rows.", "histogram", [("rows_count", labels, value), ("rows_sum", labels, 0.5)]),
        ("waiting", "Jobs.", "gauge", [("waiting", labels, waiting)]),
        (
            "nv_inference_pending_request_count",
            "Jobs.",
            "unknown",
            [("nv_inference_pending_request_count", labels, waiting)],
        ),
        ("forwardpass_model_info", "1.", "gauge", [("forwardpass_model_info", labels, 1)]),
        (
            "process_start_time_seconds",
            "Since 1970.",
            "gauge",
            [("process_start_time_seconds", {}, 1_000 + value)],
        ),
    ]


def of_certificate(expires: float, failing: float) -> list[Family]:
    return [
        (f"forwardpass_certificate_{name}", "", "gauge", [(name, {}, value)])
        for name, value in (("expires_seconds", expires), ("failing", failing))
    ]


def rendered(totals: Aggregate) -> dict[str, float]:
    return {
        f"{sample.name} {sample.labels.get('version', '')}".strip(): sample.value
        for metric in totals.collect()
        for sample in metric.samples
    }


def test_counts_are_kept_and_gauges_are_of_those_that_live() -> None:
    totals = Aggregate()
    totals.take(0, counted(5, waiting=2))
    totals.take(1, counted(7, waiting=3))
    together = {
        "calls_total": 12,
        "rows_count 1": 12,
        "rows_sum 1": 1,
        "waiting 1": 5,
        "nv_inference_pending_request_count 1": 5,
        "forwardpass_model_info 1": 1,
        "process_start_time_seconds": 1_005,
    }
    assert rendered(totals) == together
    totals.take(1, counted(7, waiting=3))
    assert rendered(totals) == together
    totals.ended(0)
    alone = {
        **together,
        "waiting 1": 3,
        "nv_inference_pending_request_count 1": 3,
        "process_start_time_seconds": 1_007,
    }
    assert rendered(totals) == alone
    # Its successor begins at 0.
    totals.take(0, counted(1))
    assert rendered(totals) == {
        **alone,
        "calls_total": 13,
        "rows_count 1": 13,
        "rows_sum 1": 1.5,
        "process_start_time_seconds": 1_001,
    }


def test_a_version_that_is_loaded_again_begins_at_0_and_the_total_goes_on() -> None:
    totals = Aggregate()
    totals.take(0, counted(5))
    totals.take(0, counted(2))
    assert rendered(totals)["calls_total"] == 7


def test_of_certificates_the_worst_is_told() -> None:
    totals = Aggregate()
    totals.take(0, of_certificate(expires=3_000, failing=0))
    totals.take(1, of_certificate(expires=2_000, failing=1))
    totals.take(2, of_certificate(expires=2_000, failing=1))
    assert rendered(totals) == {"expires_seconds": 2_000, "failing": 1}
    totals.ended(2)
    totals.take(1, of_certificate(expires=3_000, failing=0))
    assert rendered(totals) == {"expires_seconds": 3_000, "failing": 0}


def test_a_version_goes_once_no_worker_has_it() -> None:
    totals = Aggregate()
    totals.take(0, counted(5))
    totals.take(1, counted(7))
    totals.take(0, counted(6, version="2"))
    totals.prune()
    assert rendered(totals)["rows_count 1"] == 12
    totals.take(1, counted(8, version="2"))
    totals.prune()
    shown = rendered(totals)
    assert "rows_count 1" not in shown
    assert shown["rows_count 2"] == 14
    assert shown["calls_total"] == 14
