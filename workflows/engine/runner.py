"""Runs a plan on Ray: a loop over `ray.wait`, a ledger of the cluster's resources, and the order of commits.

A step runs as one Ray task that declares no resources: what it and its workers take is its budget, and the
ledger admits a step when its budget is free. So no step is started that could only wait, and Ray Data and Ray
Train find their share when they ask for it.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from components.storage import Folder
from workflows.engine import board
from workflows.engine.fingerprint import payload
from workflows.engine.lease import Contender, Heartbeat, Lease
from workflows.engine.ledger import Ledger
from workflows.engine.picture import Box, draw
from workflows.engine.plan import Planned, confirmed, plan
from workflows.engine.provenance import provenance
from workflows.engine.signals import Signals
from workflows.engine.step import Budget, Following, Step, Sub, producer
from workflows.engine.store import DamagedResultError, Followed, Manifest, Store
from workflows.engine.task import Call, Done, Failed, execute, failure
from workflows.engine.tracking import Tracking

_POLL_S = 0.5
_PICTURE_EVERY_S = 30.0
_PROGRESS_EVERY_S = 10.0

State = Literal["waiting", "running", "computed", "reused", "failed", "skipped", "killed"]


@dataclass
class Outcome:
    """What became of one step."""

    step: Step
    fingerprint: str
    state: State = "waiting"
    manifest: Manifest | None = None
    output: Folder | None = None
    error: str = ""
    run_id: str | None = None
    """Its MLflow run, if it was computed."""

    @property
    def is_done(self) -> bool:
        return self.state in ("computed", "reused")

    @property
    def is_lost(self) -> bool:
        return self.state in ("failed", "skipped", "killed")


@dataclass(frozen=True)
class Result:
    """What became of a submission."""

    outcomes: Mapping[str, Outcome]
    """By step name, inputs first."""
    exit_code: int
    """0; 1: a step failed; 130 or 143: it was interrupted."""
    message: str
    """One line that says why, if it did not succeed."""
    run_id: str
    url: str
    duration_s: float


@dataclass
class _Running:
    """A step in work."""

    lease: Lease
    since: float
    attempts: int = 0
    attempt: str = ""
    task: Any = None
    """Reference to its Ray task."""


def run(
    steps: Iterable[Step],
    store: Store,
    tracking: Tracking,
    cluster: Callable[[], object],
    name: str,
    params: Mapping[str, Any],
    largest: Budget | None = None,
    description: str = "",
) -> Result:
    """Compute what is not there yet.

    Args:
        steps: the steps wanted; what they are made of is found from them.
        cluster: connects to Ray, or starts it. Not called if every step is a hit. The caller shuts Ray down.
        name, params, description: of the parent run in MLflow.
        largest: what the cluster may grow to; what it has now by default.

    Raises:
        ValueError: the storage root cannot be written, MLflow does not answer, or a step asks for more than
            the cluster has and may grow to. Nothing was computed then.
    """
    store.check_writable()
    planned = plan(steps, store, confirm=False)
    tracking.begin(name, params, description)
    with Heartbeat(store.lease_period_s) as heartbeat, board.Terminal() as terminal, Signals() as signals:
        return _Run(planned, store, tracking, heartbeat, terminal, signals, name).to_the_end(cluster, largest)


class _Run:
    """The state of one submission. Used by `run` alone."""

    def __init__(
        self,
        planned: list[Planned],
        store: Store,
        tracking: Tracking,
        heartbeat: Heartbeat,
        terminal: board.Terminal,
        signals: Signals,
        name: str,
    ) -> None:
        self.store, self.tracking, self.heartbeat = store, tracking, heartbeat
        self.terminal, self.signals, self.name = terminal, signals, name
        self.started = time.time()
        self.planned = planned
        self.outcomes = {each.step: Outcome(each.step, each.fingerprint) for each in planned}
        self.prints = {each.step: each.fingerprint for each in planned}
        self.void: set[Step] = set()
        """Steps whose manifest does not count: a file is damaged, or an effect outside the store is gone."""
        self.contenders: dict[Step, Contender] = {}
        self.running: dict[Step, _Running] = {}
        self.growing_since: dict[Step, float] = {}
        self.board = board.Client()
        self.drawn = (time.monotonic(), "")
        self.said_progress = time.monotonic()

    def to_the_end(self, cluster: Callable[[], object], largest: Budget | None) -> Result:
        try:
            for each in self.planned:
                if each.manifest is not None and confirmed(each.step, each.manifest, self.store):
                    self._reuse(each.step, each.manifest)
            if self._waiting():
                cluster()
                self.signals.install()  # Ray sets its own as it starts
                self.ledger = Ledger(largest)
                self.ledger.check(self._waiting())
                self._loop()
        except BaseException as error:
            self._kill_all(f"the driver ended: {type(error).__name__}")
            self.tracking.end("FAILED", {}, {"step.error": str(error)[:500]})
            raise
        return self._finish()

    # ---- the loop

    def _loop(self) -> None:
        import ray

        self.board.open(self.name)
        try:
            while not self.signals.received:
                self._start_ready()
                if not self.running and not self._waiting():
                    break
                tasks = {running.task: step for step, running in self.running.items()}
                if tasks:
                    for task in ray.wait(list(tasks), timeout=_POLL_S)[0]:
                        self._take(tasks[task])
                else:  # all that is left is in the hands of another submission
                    time.sleep(_POLL_S)
                self._enforce()
                self.terminal.show(self.board.latest())
                self._say_progress()
                if time.monotonic() - self.drawn[0] > _PICTURE_EVERY_S:
                    self._draw()
            if self.signals.received:
                self._kill_all(f"interrupted by {signal.Signals(self.signals.received).name}")
        finally:
            self.board.close()

    def _waiting(self) -> list[Step]:
        return [step for step, outcome in self.outcomes.items() if outcome.state == "waiting"]

    def _start_ready(self) -> None:
        self.ledger.refresh()
        in_work = {self.prints[step] for step in self.running}
        for step in self._waiting():
            inputs = [self.outcomes[producer(source)] for source in step.inputs.values()]
            if any(each.is_lost for each in inputs):
                self.outcomes[step].state = "skipped"
                self.terminal.ended(step.name, "skipped")
            elif not self._can_start(step) or self.prints[step] in in_work:
                continue  # (two names for one piece of work: the second finds the result of the first)
            elif self.ledger.fits(step, self.running):
                self._begin(step)
                in_work.add(self.prints[step])
            elif self.ledger.must_grow(step):
                self.terminal.waiting(step.name, "waits for the cluster to grow")
                since = self.growing_since.setdefault(step, time.monotonic())
                if step.deadline_s is not None and time.monotonic() - since > step.deadline_s:
                    self._fail(step, "failed", f"the cluster did not grow within {step.deadline_s:g} s")

    def _can_start(self, step: Step) -> bool:
        return all(
            outcome.is_done or (isinstance(source, Following) and outcome.state == "running")
            for source in step.inputs.values()
            for outcome in [self.outcomes[producer(source)]]
        )

    def _begin(self, step: Step) -> None:
        """Take the lease and start; or reuse what another submission has made since the plan."""
        folder = self.store.folder(step, self.prints[step])
        contender = self.contenders.setdefault(step, Contender(folder, self.store.lease_period_s))
        if self._reuse_if_there(step):
            return
        lease = contender.acquire()
        if lease is None:
            who = contender.holder or "another submission"
            self.terminal.waiting(step.name, f"waits for {who}, which computes it")
            return
        if self._reuse_if_there(step):
            lease.release()
            return
        if step in self.void:
            self.store.discard(step, self.prints[step])
        self.heartbeat.keep(lease)
        self.running[step] = _Running(lease, time.monotonic())
        self.outcomes[step].state = "running"
        self.terminal.started(step.name)
        self._submit(step)

    def _submit(self, step: Step) -> None:
        """Start an attempt."""
        import ray

        running, outcome = self.running[step], self.outcomes[step]
        running.attempts += 1
        running.attempt = f"attempt-{running.lease.token[:12]}-{running.attempts}"
        folder = self.store.folder(step, outcome.fingerprint)
        output = folder / running.attempt
        inputs = self._inputs(step)
        if running.attempts == 1:
            outcome.run_id = self.tracking.start(step, outcome.fingerprint, output, inputs)
        else:
            facts = {"step.attempts": str(running.attempts), "step.output": output.uri}
            self.tracking.tag(outcome.run_id, facts)
        call = Call(
            fn=step.fn,
            inputs={
                key: Followed(place) if isinstance(step.inputs[key], Following) else place
                for key, (_, place) in inputs.items()
            },
            arguments={**step.config, **step.execution},
            output=output,
            state=folder / "state",
            cache=self.store.cache,
            monitor=self.tracking.monitor(step, outcome.run_id, self.board.name),
            threads=max(1, int(step.budget.cpus)),
        )
        remote = ray.remote(num_cpus=0, max_retries=0)(execute)
        running.task = remote.options(name=f"{step.name}:{outcome.fingerprint[:8]}").remote(call)

    def _take(self, step: Step) -> None:
        """Take in what a task came to."""
        import ray

        running = self.running[step]
        try:
            said: Done | Failed = ray.get(running.task)
        except ray.exceptions.RayError as error:  # the worker itself was lost
            said = failure(error)
        if isinstance(said, Done):
            self._commit(step, said)
        elif said.kind == "cluster" and running.attempts <= step.retries:
            self.terminal.say(f"{step.name}: attempt {running.attempts} lost ({said.message}); again")
            self._submit(step)
        else:
            if said.kind == "bug":
                self.terminal.say(said.traceback)
            self._fail(step, "failed", said.message, said.traceback)

    def _commit(self, step: Step, done: Done) -> None:
        running, outcome = self.running.pop(step), self.outcomes[step]
        manifest = Manifest(
            name=step.name,
            fingerprint=outcome.fingerprint,
            payload=payload(step, self.prints),
            attempt=running.attempt,
            outputs=done.outputs,
            numbers=done.numbers,
            started=done.started,
            finished=done.finished,
            tracking={"place": self.tracking.place, "run_id": outcome.run_id} if outcome.run_id else {},
            provenance=provenance(),
        )
        self.heartbeat.drop(running.lease)
        if not self.store.commit(step, manifest, running.lease):
            # Our lease was lost and its taker was faster: its result counts, and is found in the next round.
            self.tracking.fail(outcome.run_id, "KILLED", "another submission finished this step first")
            outcome.state = "waiting"
            return
        outcome.state, outcome.manifest = "computed", manifest
        outcome.output = self.store.output(step, manifest)
        self.tracking.finish(outcome.run_id, manifest)
        self.terminal.ended(step.name, f"done in {manifest.duration_s:.1f} s")

    def _enforce(self) -> None:
        """Deadlines, leases that others took over, and steps whose inputs will not come any more."""
        for step, running in list(self.running.items()):
            if any(self.outcomes[producer(source)].is_lost for source in step.inputs.values()):
                self._stop(step)
                self._fail(step, "killed", "the step that it followed has failed")
                self.outcomes[step].state = "skipped"
                continue
            if running.lease.lost:
                self._stop(step)
                self._fail(step, "killed", "another submission took the step over")
                self.outcomes[step].state = "waiting"
            elif step.deadline_s is not None and time.monotonic() - running.since > step.deadline_s:
                self._stop(step)
                self._fail(step, "failed", f"not done within its deadline of {step.deadline_s:g} s")

    # ---- single steps

    def _reuse_if_there(self, step: Step) -> bool:
        self.void.discard(step)
        try:
            manifest = self.store.find(step, self.prints[step])
        except DamagedResultError:
            self.void.add(step)
            return False
        if manifest is None:
            return False
        if not confirmed(step, manifest, self.store):
            self.void.add(step)
            return False
        self._reuse(step, manifest)
        return True

    def _reuse(self, step: Step, manifest: Manifest) -> None:
        outcome = self.outcomes[step]
        outcome.state, outcome.manifest = "reused", manifest
        outcome.output = self.store.output(step, manifest)
        self.tracking.reuse(step, manifest, outcome.output, self._inputs(step))
        self.terminal.ended(step.name, f"reused ({manifest.duration_s:.1f} s when computed)")

    def _inputs(self, step: Step) -> dict[str, tuple[str, Folder]]:
        """Keyword -> fingerprint and folder of what is read."""
        found = {}
        for key, source in step.inputs.items():
            made_by = self.outcomes[producer(source)]
            folder = self.store.folder(made_by.step, made_by.fingerprint)
            place = folder if isinstance(source, Following) else made_by.output or folder
            found[key] = (made_by.fingerprint, place / source.path if isinstance(source, Sub) else place)
        return found

    def _fail(self, step: Step, state: Literal["failed", "killed"], error: str, traceback: str = "") -> None:
        """End a step that has no task (any more)."""
        running, outcome = self.running.pop(step, None), self.outcomes[step]
        outcome.state, outcome.error = state, error
        if running:
            self.heartbeat.drop(running.lease)
            with contextlib.suppress(OSError):  # a lease that cannot be freed runs out
                running.lease.release()
        self.tracking.fail(outcome.run_id, state.upper(), f"step `{step.name}`: {error}", traceback)
        self.terminal.ended(step.name, f"{state}: {error}")

    def _stop(self, step: Step) -> None:
        """End the task of a step, and see it ended: after this another may use its state folder."""
        import ray

        task = self.running[step].task
        ray.cancel(task, force=True, recursive=True)
        ray.wait([task], timeout=10)

    def _kill_all(self, why: str) -> None:
        for step in list(self.running):
            self._stop(step)
            self._fail(step, "killed", why)

    # ---- what is seen

    def _say_progress(self) -> None:
        """To MLflow, for those who are not at this terminal."""
        if time.monotonic() - self.said_progress < _PROGRESS_EVERY_S:
            return
        self.said_progress = time.monotonic()
        for step in self.running:
            if said := self.terminal.describe(step.name):
                self.tracking.tag(self.outcomes[step].run_id, {"step.progress": said})

    def _draw(self) -> None:
        """The DAG's picture to MLflow, if it would differ from the last one."""
        states = " ".join(outcome.state for outcome in self.outcomes.values())
        if states != self.drawn[1]:
            boxes = {
                step.name: Box(outcome.state, outcome.manifest.duration_s if outcome.manifest else None)
                for step, outcome in self.outcomes.items()
            }
            self.tracking.picture(draw(list(self.outcomes), boxes, self.name))
        self.drawn = (time.monotonic(), states)

    def _finish(self) -> Result:
        self._draw()
        outcomes = list(self.outcomes.values())
        failed = [outcome for outcome in outcomes if outcome.state == "failed"]
        status, exit_code, message = "FINISHED", 0, ""
        if self.signals.received:
            name = signal.Signals(self.signals.received).name
            status, exit_code = "KILLED", 128 + self.signals.received
            message = f"interrupted by {name}; the same command goes on from here"
        elif failed:
            status, exit_code = "FAILED", 1
            message = f"step `{failed[0].step.name}`: {failed[0].error}"
        seconds = time.time() - self.started
        counts = {
            f"steps_{state}": float(sum(outcome.state == state for outcome in outcomes))
            for state in ("computed", "reused", "failed", "skipped", "killed")
        }
        headlines = {
            f"{number}/{outcome.step.name}": outcome.manifest.numbers[number]
            for outcome in outcomes
            if outcome.manifest
            for number in outcome.step.headline
        }
        tags = {"step.error": message} if message else {}
        self.tracking.end(status, {**headlines, **counts, "duration_s": seconds}, tags)
        return Result(
            outcomes={outcome.step.name: outcome for outcome in outcomes},
            exit_code=exit_code,
            message=message,
            run_id=self.tracking.run_id,
            url=self.tracking.url,
            duration_s=seconds,
        )
