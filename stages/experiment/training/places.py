"""Other processes that compute tasks: on this machine, or the workers of a Dask cluster.

A result travels as bytes through a pipe or a socket, never as shared memory or file descriptors,
of which there may be few. A task is handed out when a process is free for it.
"""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from functools import partial
from itertools import chain, islice
from multiprocessing.connection import Connection, wait
from typing import Any

from experiment.stage.errors import UserError

SCHEDULER = "DASK_SCHEDULER_ADDRESS"  # Dask's own name for it
PATIENCE = 10  # seconds to wait for a scheduler
LOST = "a worker process was killed; `dvc repro` goes on from the finished tasks"

# What every process calls with the data and a task.
Compute = Callable[[Any, Any], bytes]


class Processes:
    """Processes of one thread each on this machine."""

    def __init__(self, count: int, data: object) -> None:
        # A forked worker starts with all modules loaded, which saves seconds. Forking is safe
        # because this process has a single thread; outside Linux, system libraries may start more.
        context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._workers: dict[Any, Any] = {}
        for _ in range(count):
            here, there = context.Pipe()
            worker = context.Process(target=_serve, args=(there, data), daemon=True)
            worker.start()
            there.close()
            self._workers[here] = worker

    def results(self, compute: Compute, tasks: Mapping[int, object]) -> Iterator[tuple[int, bytes]]:
        """Hand a task to each free process; raise UserError if a process is lost."""
        waiting = iter(tasks.items())
        free = list(self._workers)
        running: dict[Any, int] = {}
        try:
            while True:
                for worker, (position, task) in zip(free, waiting, strict=False):
                    worker.send((compute, task))
                    running[worker] = position
                if not running:
                    return
                ready = wait(list(running))
                free = [worker for worker in running if worker in ready]
                for worker in free:
                    answer = worker.recv()
                    if isinstance(answer, BaseException):
                        raise answer
                    yield running.pop(worker), answer
        except (EOFError, ConnectionError):
            raise UserError(LOST) from None

    def close(self) -> None:
        """Kill the processes."""
        for connection, worker in self._workers.items():
            worker.kill()
            worker.join()
            connection.close()


def _serve(connection: Connection, data: object) -> None:
    """Compute what comes through a connection, until it is closed."""
    # Ctrl-C reaches the whole process group: the parent reports it, a worker just exits.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_follow_parent, daemon=True).start()
    with suppress(EOFError):
        while True:
            compute, task = connection.recv()
            try:
                connection.send(compute(data, task))
            except UserError as error:
                connection.send(error)
            except Exception:  # not every exception can be sent
                connection.send(RuntimeError(f"in a worker process:\n{traceback.format_exc()}"))


def _follow_parent() -> None:
    # Otherwise a worker would finish its task after its parent is killed.
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Cluster:
    """The workers of a Dask scheduler.

    Each task carries the data, so no worker holds the only copy. Dask itself gives the tasks of a
    lost worker to another, three times at most.
    """

    def __init__(self, address: str, data: object) -> None:
        try:
            from distributed import Client
        except ModuleNotFoundError:
            raise UserError(
                f"{SCHEDULER} = {address!r}, but Dask is not installed: "
                'pip install -c constraints.txt -e ".[pipeline,cluster]"'
            ) from None
        try:
            self._client = Client(address, timeout=PATIENCE)
        except (OSError, ValueError, TypeError, RuntimeError) as error:  # last two: no certificate
            raise UserError(
                f"{SCHEDULER} = {address!r}; allowed: where a Dask scheduler answers, such as "
                "tcp://127.0.0.1:8786, to this machine's certificate if it asks for one; unset, "
                f"the work stays on this machine ({' '.join(str(error).split())})"
            ) from None
        self._data = data

    def results(self, compute: Compute, tasks: Mapping[int, object]) -> Iterator[tuple[int, bytes]]:
        """Hand out two tasks for each thread; raise UserError if one is lost again and again."""
        from distributed import KilledWorker, as_completed

        waiting: Iterator[tuple[int, object]] = iter(tasks.items())
        handed_out: dict[Any, tuple[int, int]] = {}  # the position, and how many were done then
        done = 0
        running = as_completed()
        while True:
            most = max(1, 2 * sum(self._client.nthreads().values()))
            for position, task in islice(waiting, max(0, most - len(handed_out))):
                # As bytes, which the scheduler does not open: it has none of this code.
                call = pickle.dumps(partial(compute, self._data, task))
                future = self._client.submit(lambda call: pickle.loads(call)(), call, pure=False)
                handed_out[future] = position, done
                running.add(future)
            if not handed_out:
                return
            future = next(running)
            position, before = handed_out.pop(future)
            try:
                yield position, future.result()
                done += 1
            except KilledWorker:
                # Dask blames tasks that only waited on a worker, too: try again if others got done.
                if done == before:
                    raise UserError(LOST) from None
                waiting = chain([(position, tasks[position])], waiting)
            except CancelledError:
                raise UserError(LOST) from None

    def close(self) -> None:
        """Leave the cluster, which forgets the tasks."""
        self._client.close()


def workers() -> int:
    """Number of processes: EXPERIMENT_WORKERS, or one per core."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    asked = os.environ.get("EXPERIMENT_WORKERS", str(cores or 1))
    if not asked.isdecimal() or int(asked) < 1:
        raise UserError(f"EXPERIMENT_WORKERS = {asked!r}; allowed: a whole number of at least 1")
    # Windows cannot wait for more than 61.
    return min(int(asked), 61) if sys.platform == "win32" else int(asked)
