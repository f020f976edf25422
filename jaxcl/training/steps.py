"""Step after step: when the figures of one are logged, when it is saved, and when to stop."""

import signal
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import jax

from jaxcl.data.prefetching import Prefetched
from jaxcl.training.errors import DataError
from jaxcl.training.experiment import Run
from jaxcl.training.observers import ProgressBar
from jaxcl.training.stopping import StopRequest

T = TypeVar("T")


class Watch(Protocol):
    """What looks on while steps are taken: that of a run, or of all members of a population."""

    def note(self, without_image: Any) -> None:
        """Takes what came with a batch: its records without an image of their own."""
        ...

    def agree(self, *, due: bool) -> tuple[signal.Signals | None, Any]:
        """What asks to stop, and how many images were replaced; of several processes, where it is
        `due`, any and all."""
        ...

    def log(self, step: int, metrics: Any, replaced: Any, waited: float, done: int) -> None:
        """Logs a step's metrics, once `done` steps are done; may refuse to go on."""
        ...

    def save(self, step: int, state: Any) -> None:
        """Saves the state after a step."""
        ...


def take_steps(
    advance: Callable[[int, Any, Any], tuple[Any, Any]],
    state: Any,
    batches: Prefetched[tuple[Any, Any]],
    watch: Watch,
    *,
    start: int,
    total: int,
    run: Run,
    stop: StopRequest,
    bar: ProgressBar,
) -> int:
    """Steps until the end or a request to stop.

    A step's metrics are read when the next one has been dispatched, so that the devices never wait
    for the log.

    Args:
      advance: (number of the step, state, batch) -> (new state, metrics).
      state: after step `start`.
      batches: each a placed batch, and what `watch.note` takes.
      watch: what looks on.
      start: steps done before.
      total: steps in all.
      run: says how often to log and to save.
      stop: what asked this process to stop.
      bar: shows how far it is.

    Returns:
      Steps done, all in all.

    Raises:
      DataError: where the data cannot be read; the steps before are saved.
    """
    logged: tuple[int, Any, Any] | None = None  # a step whose metrics may still be computing
    step = start
    stopping = None
    try:
        for batch, without_image in readable(batches):
            state, metrics = advance(step + 1, state, batch)
            step += 1
            watch.note(without_image)
            if logged is not None:
                # A CPU has done this step too by now; an accelerator is still at it.
                done = step if metrics["loss"].is_ready() else logged[0]
                watch.log(*logged, batches.waited_seconds, done)
                logged = None
            saving = step % run.checkpoint_every == 0 or step == total
            logging = saving or step % run.log_every == 0 or step == start + 1
            # Asked once: what asks to stop later waits for the next step.
            stopping, replaced = watch.agree(due=logging)
            saving = saving or stopping is not None
            if saving:
                watch.log(step, metrics, replaced, batches.waited_seconds, step)
                watch.save(step, state)
            elif logging:
                logged = (step, metrics, replaced)
            bar.advance(step)
            if stopping is not None:
                bar.say(f"{stopping.name}: saved after step {step}")
                break
            if not batches.ready:  # only what the devices wait, their steps done, is waiting
                jax.block_until_ready(metrics)
    except DataError:
        if step > start and jax.process_count() == 1:  # the others are at their next step
            watch.save(step, state)
        if stop.signal is None:
            raise  # else what asked this process to stop has ended its workers too
    return step


def readable(batches: Iterator[T]) -> Iterator[T]:
    """Says of what is wrong with the data that it is the user's to mend."""
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (ValueError, OSError, RuntimeError) as error:
            raise DataError(f"reading the data: {error}") from error
        yield batch
