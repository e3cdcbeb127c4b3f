"""Work that is done beside the main thread's: on threads, a bounded number of pieces waiting; or at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from threading import BoundedSemaphore


class Beside:
    """Pieces of work on `workers` threads, at most `most` of them not done; with 0 workers each is done at once. A
    context: at its end nothing is under way, and what was not begun never is."""

    def __init__(self, workers: int, most: int = 1) -> None:
        self._pool = ThreadPoolExecutor(workers) if workers else None
        self._room = BoundedSemaphore(most)
        self._pieces: list[Future[object]] = []

    def do(self, work: Callable[[], object]) -> None:
        """Raises: what an earlier piece raised."""
        if self._pool is None:
            work()
            return
        self._look([piece for piece in self._pieces if piece.done()])
        self._room.acquire()
        piece = self._pool.submit(work)
        piece.add_done_callback(lambda _: self._room.release())
        self._pieces.append(piece)

    def finish(self) -> None:
        """Wait for all of it. Raises: what a piece raised."""
        self._look([*self._pieces])

    def _look(self, pieces: Iterable[Future[object]]) -> None:
        for piece in pieces:
            self._pieces.remove(piece)
            piece.result()

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
