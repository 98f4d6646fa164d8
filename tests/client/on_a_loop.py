"""AsyncClient with the face of Client, so that one test drives both."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any, Self

from forwardpass.client import AsyncClient


class OnALoop:
    """Has an event loop in a thread await what an `AsyncClient` is asked for.

    Args:
        args: For the `AsyncClient`, as `options`.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        self.client = AsyncClient(*args, **options)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __repr__(self) -> str:
        return repr(self.client)

    def close(self) -> None:
        self._wait(self.client.close())

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.client, name)
        if not callable(method):
            return method

        def call(*args: Any, **options: Any) -> Any:
            answer = method(*args, **options)
            return self._wait(answer) if inspect.isawaitable(answer) else self._iterate(answer)

        return call

    def _wait(self, awaitable: Any) -> Any:
        async def wait() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

    def _iterate(self, answers: AsyncIterator[Any]) -> Iterator[Any]:
        end = object()
        try:
            while (answer := self._wait(anext(answers, end))) is not end:
                yield answer
        finally:
            self._wait(answers.aclose())  # type: ignore[attr-defined]  # a generator
