"""SIMULATED users: what notebooks and scripts do, by seed. Each cell is a program that checks what it gets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from atoll.ids import ACTOR_ID_BYTES
from atoll.object_ref import ObjectRef
from atoll.protocol.messages import (
    AbandonName,
    ActorChanged,
    ClaimName,
    CreateActor,
    CreateGroup,
    DropName,
    Failed,
    GetActor,
    KillActor,
    NameClaimed,
    PublishName,
    RemoveGroup,
    WaitGroup,
)
from atoll.protocol.values import (
    ActorInterface,
    ActorPayload,
    ActorSpec,
    GroupSpec,
    MethodSpec,
    ObjectLocation,
    SchedulingClass,
)
from tests.sim.programs import Code, Outcome, Request, Sleep
from tests.sim.values import Plan, Program, encode
from tests.sim.world import DriverProcess, World

Refs = list[ObjectRef[Any]]
Cell = Callable[["Notebook"], Code]
KIB = 1024


def _nothing() -> Code:
    return None
    yield


INTERFACE = ActorInterface({"call": MethodSpec()})
ACTOR_NAMES = ("llm", "counter")
CACHE_NAMES = ("flights", "weather")


class Notebook:
    """A driver at work.

    Args:
        world: For what it knows of what should happen.
        driver: The process.
    """

    def __init__(self, world: World, driver: DriverProcess) -> None:
        self.world = world
        self.driver = driver
        self.random = world.simulation.random_for(f"work of {driver.name}")
        self.open_cells = 0
        self.kept: Refs = []

    # --------------------------------------------------------------------------------------------- making plans

    def duration(self) -> float:
        """Most tasks are short, some are not."""
        kind = self.random.random()
        if kind < 0.5:
            return self.random.uniform(5e-6, 100e-6)
        if kind < 0.85:
            return self.random.uniform(1e-4, 5e-3)
        return self.random.uniform(0.01, 0.6)

    def plan(self, **more: Any) -> Plan:
        """Return a plan of a task that ends well."""
        more.setdefault("duration_s", self.duration())
        return Plan(**more)

    def big(self) -> int:
        """Return the size of a value for the store."""
        return self.random.choice([150, 300, 700, 1500, 3000]) * KIB

    # ------------------------------------------------------------------------------------------------- checking

    def check(self, refs: Sequence[ObjectRef[Any]], outcomes: Sequence[Outcome]) -> None:
        """Compare outcomes with what the plans say."""
        for ref, outcome in zip(refs, outcomes, strict=True):
            kind = outcome.error or "value"
            self.world.outcomes[kind] += 1
            submission = self.world.submissions.get(ref.task_id())
            if self.world.options.dependable and outcome.error and self.world.is_safe(ref.binary()):
                raise AssertionError(f"{ref} must have a value and is a {outcome.error}: {submission}")
            if submission is not None and not outcome.error and submission.plan.failing:
                assert submission.begun > submission.plan.failures, f"{ref} must fail and has a value: {submission}"

    def finish(self, refs: Refs) -> Code:
        """Get everything and check it."""
        outcomes = yield from self.driver.get(refs)
        self.check(refs, outcomes)

    # --------------------------------------------------------------------------------------------------- cells

    def many(self) -> Code:
        """A map over many short tasks, whose results come together."""
        shared = self.plan(duration_s=self.random.uniform(5e-6, 3e-3), outputs=self.random.choice([0, 0, 0, 2]))
        shared.preemptible = self.random.random() < 0.15
        refs: Refs = []
        for _number in range(self.random.randint(3, 30)):
            shared = Plan(**{name: getattr(shared, name) for name in shared.__struct_fields__})
            if self.random.random() < 0.1:
                shared.duration_s = self.duration()
            shared.retires = self.random.random() < 0.02
            refs += self.driver.submit(shared)
            if self.random.random() < 0.05:
                yield Sleep(self.random.uniform(0.0, 0.01))
        if self.random.random() < 0.3:
            self.random.shuffle(refs)
        yield from self.finish(refs)

    def graph(self) -> Code:
        """Tasks that take each other's results."""
        refs: Refs = []
        for _number in range(self.random.randint(3, 12)):
            arguments = self.random.sample(refs, min(len(refs), self.random.randrange(3)))
            sizes = [self.random.choice([10, 10, 5000, self.big()]) for _ in range(self.random.choice([1, 1, 1, 2, 3]))]
            plan = self.plan(sizes=sizes, retries=self.random.choice([3, 3, 0]))
            if self.random.random() < 0.08:
                plan.failing, plan.failures = "raise", 10
            refs += self.driver.submit(plan, arguments)
            if self.random.random() < 0.2 and len(refs) > 1:
                del refs[self.random.randrange(len(refs))]
        yield from self.finish(refs)

    def retried(self) -> Code:
        """Tasks that fail at first, or always."""
        refs: Refs = []
        for _number in range(self.random.randint(2, 8)):
            retries = self.random.choice([0, 1, 3])
            plan = self.plan(retries=retries, retry_exceptions=self.random.random() < 0.7)
            if self.random.random() < 0.6:
                plan.failing = self.random.choice(["raise", "crash"])
                plan.failures = self.random.choice([1, 2, 9])
            refs += self.driver.submit(plan)
        yield from self.finish(refs)

    def cancelled(self) -> Code:
        """Tasks of which some are not wanted any more."""
        refs: Refs = []
        for _number in range(self.random.randint(3, 12)):
            plan = self.plan()
            if self.random.random() < 0.4:
                plan.duration_s = self.random.uniform(0.05, 1.0)
            if self.random.random() < 0.2:
                plan.children = [self.plan(duration_s=0.2)]
            refs += self.driver.submit(plan, refs[-1:] if self.random.random() < 0.2 else [])
        yield Sleep(self.random.uniform(0.0, 0.3))
        for ref in refs:
            if self.random.random() < 0.5:
                self.driver.cancel(ref, self.random.random() < 0.3)
                if self.random.random() < 0.3:
                    yield Sleep(self.random.uniform(0.0, 0.01))
        yield from self.finish(refs)

    def big_values(self) -> Code:
        """Values in the store: put, returned, passed on, dropped."""
        refs: Refs = []
        for _number in range(self.random.randint(2, 6)):
            if self.random.random() < 0.5:
                put = yield from self.driver.put(self.big(), refs[-1:] if self.random.random() < 0.3 else [])
                if put is None:
                    self.world.outcomes["put refused"] += 1
                    assert not self.world.options.calm, "there is room in a calm world"
                    continue
                refs.append(put)
            else:
                sizes = [self.big() for _ in range(self.random.randint(1, 2))]
                refs += self.driver.submit(self.plan(sizes=sizes), refs[-2:] if self.random.random() < 0.6 else [])
            if self.random.random() < 0.2:
                refs.pop(self.random.randrange(len(refs)))
        outcomes = yield from self.driver.get(refs)
        self.check(refs, outcomes)
        if self.random.random() < 0.5:
            del refs  # the views stay for a while
        yield Sleep(self.random.uniform(0.0, 0.05))

    def passed_refs(self) -> Code:
        """Refs inside of arguments and results: who has one keeps its object alive."""
        refs: Refs = []
        for _number in range(self.random.randint(2, 6)):
            inside = self.random.sample(refs, min(len(refs), self.random.randrange(1, 4)))
            plan = self.plan(
                give_arguments=self.random.random() < 0.6,
                puts=self.random.randrange(3),
                sizes=[self.random.choice([10, 10, self.big()]) for _ in range(self.random.choice([1, 1, 2]))],
            )
            if self.random.random() < 0.5:
                plan.children = [self.plan(sizes=[self.random.choice([10, 5000])]) for _ in range(2)]
                plan.give_children = True
                plan.pass_arguments = self.random.random() < 0.5
                plan.wait = self.random.random() < 0.5
            refs += self.driver.submit(plan, (), inside)
            del inside
            if self.random.random() < 0.3:
                yield Sleep(self.random.uniform(0.0, 0.02))
        outcomes = yield from self.driver.get(refs)
        self.check(refs, outcomes)
        inner = [ref for outcome in outcomes for ref in outcome.refs]
        if self.random.random() < 0.6:
            del refs, outcomes
        yield Sleep(self.random.uniform(0.0, 0.1))
        yield from self.finish(inner)
        if inner and self.random.random() < 0.3:
            self.kept.append(inner[0])

    def streamed(self) -> Code:
        """Generators: read to the end, in part or not at all, bounded or not; some fail or are cancelled."""
        refs: Refs = []
        whole: Refs = []
        for _number in range(self.random.randint(1, 3)):
            sizes = [self.random.choice([10, 10, 5000, self.big()]) for _ in range(self.random.randrange(7))]
            plan = self.plan(
                sizes=sizes, retries=self.random.choice([0, 3]), duration_s=self.random.uniform(1e-4, 0.05)
            )
            if self.random.random() < 0.3:
                plan.failing = self.random.choice(["raise", "crash"])
                plan.failures = self.random.choice([1, 9])
                plan.retry_exceptions = self.random.random() < 0.5
            generator = self.driver.stream(plan, self.random.choice([0, 0, 1, 3]), refs[-1:], refs[:1])
            reads = self.random.choice([99, 99, 99, 2, 0])
            for _value in range(reads):
                ref = yield from generator.take(self.random.choice([None, None, 0.02]))
                if ref is None:
                    break
                refs.append(ref)
                del ref
                if self.random.random() < 0.1:
                    refs.pop(self.random.randrange(len(refs)))
            if self.random.random() < 0.15:
                self.driver.cancel(generator.whole, self.random.random() < 0.3)
            if self.random.random() < 0.7:
                whole.append(generator.whole)
            del generator
        outcomes = yield from self.driver.get(refs)
        for outcome in outcomes:
            self.world.outcomes[outcome.error or "value"] += 1
        inner = [ref for outcome in outcomes for ref in outcome.refs]
        del outcomes, refs
        yield from self.driver.get([*whole, *inner])

    def nested(self) -> Code:
        """Tasks that submit tasks, wider than the machine."""

        def tree(depth: int) -> Plan:
            width = self.random.randint(1, 3) if depth else 0
            return self.plan(children=[tree(depth - 1) for _ in range(width)], wait=self.random.random() < 0.9)

        refs = [ref for _ in range(self.random.randint(1, 3)) for ref in self.driver.submit(tree(2))]
        yield from self.finish(refs)

    def on_devices(self) -> Code:
        """Tasks that want devices, whole, several or shares; some want what no node has."""
        refs: Refs = []
        for _number in range(self.random.randint(2, 6)):
            plan = self.plan(gpus=self.random.choice([2_500, 5_000, 10_000, 10_000, 20_000]), cpus=10_000)
            plan.failing, plan.failures = self.random.choice([("", 0), ("", 0), ("", 0), ("crash", 1)])
            refs += self.driver.submit(plan)
        yield from self.finish(refs)

    def gang(self) -> Code:
        """A placement group: tasks in its bundles, sometimes while it waits, sometimes when it is taken away."""
        world, roomy = self.world, max(shape.cpus for shape in self.world.options.nodes.values())
        strategy = self.random.choice(["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"])
        bundles = [{"CPU": 10_000} for _ in range(self.random.randint(1, 3))]
        can_be = len(bundles) < roomy and strategy != "STRICT_SPREAD" and (len(world.options.hosts) == 1 or roomy > 3)
        spec = GroupSpec(self.driver.ids.actor_id(), "", "", strategy, bundles)
        world.groups[spec.group_id] = spec
        if not (yield from self._settle_request(lambda number: CreateGroup(number, spec))):
            return
        doomed = not can_be or self.random.random() < 0.2
        if not doomed and self.random.random() < 0.5:
            yield from self._settle_request(lambda number: WaitGroup(number, spec.group_id))
        refs: Refs = []
        for _number in range(self.random.randint(1, 5)):
            # What a group's tasks submit takes from the group: outside there may never be room while the group stands.
            children = [self.plan(duration_s=0.001, group=spec.group_id)] if self.random.random() < 0.2 else []
            plan = self.plan(group=spec.group_id, cpus=self.random.choice([10_000, 5_000]), children=children)
            plan.bundle = self.random.choice([-1, self.random.randrange(len(bundles))])
            refs += self.driver.submit(plan)
        if doomed:
            yield Sleep(self.random.uniform(0.0, 0.3))
            for ref in refs:
                world.submissions[ref.task_id()].cancelled = True
        else:
            yield from self.finish(refs)
        yield from self._settle_request(lambda number: RemoveGroup(number, spec.group_id))
        yield from self.finish(refs)

    def _settle_request(self, make: Callable[[int], Any]) -> Code:
        """Ask the scheduler until it has answered; returns whether it did as was asked."""
        for _attempt in range(20):
            answer = yield Request("scheduler", make)
            if not isinstance(answer, Failed) or answer.kind != "ClusterLostError":
                if isinstance(answer, Failed):
                    self.world.outcomes[f"group: {answer.kind}"] += 1
                return not isinstance(answer, Failed)
        return False

    def impossible(self) -> Code:
        """A task that no node can ever run fails, and says so."""
        refs = self.driver.submit(self.plan(cpus=1_000_000))
        outcomes = yield from self.driver.get(refs)
        self.world.outcomes[outcomes[0].error or "value"] += 1
        if self.world.options.calm:
            assert outcomes[0].error == "TaskUnschedulableError", f"it is a {outcomes[0].error or 'value'}"

    def impatient(self) -> Code:
        """Somebody who waits for a while only; the tasks go on."""
        refs = [ref for _ in range(3) for ref in self.driver.submit(self.plan(duration_s=0.1))]
        yield from self.driver.get(refs, timeout_s=0.02)
        yield from self.finish(refs)

    # --------------------------------------------------------------------------------------------------- actors

    def create_actor(self, name: str = "", arguments: Sequence[ObjectRef[Any]] = (), **more: Any) -> Code:
        """Make an actor, or find the one of this name. Returns its id, or nothing; for an anonymous one, its handle."""
        driver = self.driver
        actor_id = driver.ids.actor_id()
        program = Program(self.plan(duration_s=self.random.uniform(1e-4, 0.05)), more.pop("fails_in_incarnations", []))
        if program.fails_in_incarnations and self.random.random() < 0.5:
            program.construction.failing = "crash"
        roomy = all(shape.cpus >= 3 for shape in self.world.options.nodes.values())
        resources = {"CPU": 1_000} if roomy and self.random.random() < 0.3 else {}
        if more.pop("gpus", 0):
            resources["GPU"] = 10_000
            more["idle_s"] = self.random.choice([0.0, 0.02, 0.02, 0.1])
        shape = SchedulingClass(resources, driver.environment)
        spec = ActorSpec(
            actor_id,
            name,
            "",
            "Simulated",
            shape,
            encode(ActorPayload(b"code", encode(program), [])),
            interface=INTERFACE,
            **more,
        )
        if not name:
            self.world.actor_arguments[actor_id] = [ref.binary() for ref in arguments]
            return driver.make_actor(spec, encode(program), arguments)

        def make(number: int) -> CreateActor:
            driver.core.actors.follow_new(actor_id, number)
            return CreateActor(number, driver.job, spec, get_if_exists=True)

        answer = yield Request("scheduler", make)
        if isinstance(answer, Failed):
            self.world.outcomes[f"actor: {answer.kind}"] += 1
            return b""
        assert isinstance(answer, ActorChanged), f"creation is answered by {answer}"
        return answer.actor_id

    def actor(self) -> Code:
        """An anonymous actor: calls in order, with refs, sometimes killed, sometimes dying."""
        world = self.world
        fails = [0] if self.random.random() < 0.1 else [1] if self.random.random() < 0.1 else []
        restarts = self.random.choice([0, 0, 1, 3, -1])
        gpus = self.random.random() < 0.15 and all(shape.gpus for shape in world.options.nodes.values())
        given = self.driver.submit(self.plan()) if self.random.random() < 0.3 else []
        handle = yield from self.create_actor(
            "", given, fails_in_incarnations=fails, maximum_restarts=restarts, gpus=gpus
        )
        del given
        actor_id = handle.binary()[:ACTOR_ID_BYTES]
        if restarts == 0:
            world.fragile_actors[actor_id] = None
        if fails or (any(shape.gpus == 0 for shape in world.options.nodes.values()) and gpus):
            world.killed_actors[actor_id] = None
        refs: Refs = []
        for _number in range(self.random.randint(2, 10)):
            retries = self.random.choice([0, 0, 2])
            plan = self.plan(retries=retries, give_arguments=self.random.random() < 0.2, keep=True)
            if self.random.random() < 0.06:
                plan.failing, plan.failures = "crash", 1
                world.killed_actors[actor_id] = None
            arguments = refs[-1:] if self.random.random() < 0.2 else []
            inside = refs[-2:] if self.random.random() < 0.3 else []
            refs += self.driver.call(actor_id, plan, arguments, inside, handle)
            del arguments, inside
            if gpus and self.random.random() < 0.5:  # long enough for some to give their devices up
                yield Sleep(self.random.uniform(0.0, 0.5))
            if self.random.random() < 0.1:
                yield Sleep(self.random.uniform(0.0, 0.05))
            if self.random.random() < 0.05:
                yield from self.kill(actor_id, no_restart=self.random.random() < 0.3)
        if self.random.random() < 0.4:  # a handle that is passed on: tasks call the actor, too
            for _number in range(self.random.randint(1, 3)):
                refs += self.driver.submit(self.plan(actor=actor_id), (), [handle, *refs[:1]])
        if self.random.random() < 0.5:
            del handle  # calls that have not ended keep it
        if refs and self.random.random() < 0.2:
            self.driver.cancel(self.random.choice(refs), self.random.random() < 0.3)
        yield from self.finish(refs)
        if gpus or self.random.random() < 0.5:
            yield from self.kill(actor_id, no_restart=True)

    def kill(self, actor_id: bytes, *, no_restart: bool) -> Code:
        """Kill an actor, or its process."""
        self.world.killed_actors[actor_id] = None
        for _attempt in range(20):
            answer = yield Request("scheduler", lambda number: KillActor(number, actor_id, no_restart))
            if not isinstance(answer, Failed) or answer.kind != "ClusterLostError":
                return

    def made_elsewhere(self) -> Code:
        """Actors that tasks and actors have made, and whose handles they return."""
        maker = yield from self.create_actor() if self.random.random() < 0.5 else _nothing()
        refs: Refs = []
        for _number in range(self.random.randint(1, 3)):
            plan = self.plan(makes=True, retries=self.random.choice([0, 3]))
            if maker is None:
                refs += self.driver.submit(plan)
            else:
                refs += self.driver.call(maker.binary()[:ACTOR_ID_BYTES], plan, (), (), maker)
        outcomes = yield from self.driver.get(refs)
        self.check(refs, outcomes)
        del refs
        handles = [ref for outcome in outcomes for ref in outcome.refs]
        del outcomes
        if self.random.random() < 0.3:
            del maker  # what it has made goes with it
        calls: Refs = []
        while handles:
            handle = handles.pop()
            calls += self.driver.call(handle.binary()[:ACTOR_ID_BYTES], self.plan(), (), (), handle)
            del handle
            yield Sleep(self.random.uniform(0.0, 0.05))
        yield from self.driver.get(calls)

    def named_actor(self) -> Code:
        """An actor with a name, which several notebooks call."""
        name = self.random.choice(ACTOR_NAMES)
        if self.random.random() < 0.5:
            found = yield Request("scheduler", lambda number: GetActor(number, name, ""))
            actor_id = found.actor_id if isinstance(found, ActorChanged) else b""
        else:
            actor_id = yield from self.create_actor(name, detached=True, maximum_restarts=-1)
        if not actor_id:
            return
        self.world.named_actors.setdefault(actor_id, name)
        refs: Refs = []
        for _number in range(self.random.randint(1, 6)):
            plan = self.plan(retries=self.random.choice([0, 3]), keep=self.random.random() < 0.3)
            inside = refs[-1:] if plan.keep else []
            if plan.keep and self.random.random() < 0.3:  # an actor that has nobody but another actor
                inside = [(yield from self.create_actor())]
            refs += self.driver.call(actor_id, plan, (), inside)
            del inside
        if self.random.random() < 0.05:
            yield from self.kill(actor_id, no_restart=self.random.random() < 0.5)
        yield from self.finish(refs)

    # ---------------------------------------------------------------------------------------------------- names

    def cached(self) -> Code:
        """`get_or_compute` of names that others want too."""
        for name in self.random.sample(CACHE_NAMES, self.random.randint(1, len(CACHE_NAMES))):
            if self.random.random() < 0.1:
                yield from self._publish(name)  # whatever had the name has it no more
            yield from self._get_or_compute(name)

    def _get_or_compute(self, name: str) -> Code:
        world, driver = self.world, self.driver
        was_there = name in world.names.must_be_there()
        claimed: Any = yield Request("scheduler", lambda number: ClaimName(number, name, True))
        if isinstance(claimed, Failed):
            world.outcomes[f"claim: {claimed.kind}"] += 1
            return
        assert isinstance(claimed, NameClaimed), f"a claim is answered by {claimed}"
        if was_there and name in world.names.must_be_there() and not world.agents_lost and not world.renewed:
            assert claimed.location is not None, f"the name {name!r} was published and has no object"
        if claimed.location is not None:
            yield from self._read_name(claimed.location)
        elif claimed.compute:
            world.names.begin(name, driver)
            yield Sleep(self.random.uniform(0.0, 0.5))
            world.names.end(name, driver)
            published = self.random.random() >= 0.2 and (yield from self._publish(name))
            if not published:
                driver.tell("scheduler", AbandonName(name))
        if self.random.random() < 0.2:
            world.names.drop_begins(name)
            answer = yield Request("scheduler", lambda number: DropName(number, name))
            if not isinstance(answer, Failed) or answer.kind != "ClusterLostError":
                world.names.drop_ends(name)
            world.outcomes["name dropped" if not isinstance(answer, Failed) else f"drop: {answer.kind}"] += 1

    def _read_name(self, location: ObjectLocation) -> Code:
        ref = self.driver.refer_to(location)
        outcomes = yield from self.driver.get([ref])
        self.check([ref], outcomes)

    def _publish(self, name: str) -> Code:
        """Put a value and give it the name; returns whether that was possible."""
        world, driver = self.world, self.driver
        world.names.overtaken(name)
        ref = yield from driver.put(self.random.choice([50, self.big(), self.big()]))
        if ref is None:
            return False
        object_id = ref.binary()
        location = driver.core.objects.location(object_id)
        world.names.given_away[object_id] = None
        asked_at = world.simulation.clock.now
        answer = yield Request("scheduler", lambda number: PublishName(number, name, location))
        if isinstance(answer, Failed):
            world.outcomes[f"publish: {answer.kind}"] += 1
        else:
            world.names.published(name, location, asked_at)
        del ref
        return not isinstance(answer, Failed)

    # ------------------------------------------------------------------------------------------------- the whole

    CELLS: tuple[tuple[str, int], ...] = (
        ("many", 4),
        ("graph", 3),
        ("retried", 2),
        ("cancelled", 2),
        ("big_values", 3),
        ("passed_refs", 4),
        ("streamed", 3),
        ("nested", 2),
        ("on_devices", 2),
        ("gang", 2),
        ("impossible", 1),
        ("impatient", 1),
        ("actor", 4),
        ("made_elsewhere", 2),
        ("named_actor", 3),
        ("cached", 5),
    )

    STORING = ("graph", "big_values", "passed_refs", "streamed")
    """What fills stores: where they are small, most of the work."""

    def work(self, cells: int, done: Callable[[Notebook], None]) -> None:
        """Run so many cells, some of them side by side."""
        names = [name for name, _weight in self.CELLS]
        more = 4 if self.world.options.crowded else 1
        weights = [weight * more if name in self.STORING else weight for name, weight in self.CELLS]
        chosen = self.random.choices(names, weights, k=cells)
        lanes = [chosen[index::2] for index in range(2)] if self.random.random() < 0.4 else [chosen]
        self.open_cells = len(lanes)

        def one_done(_result: Any) -> None:
            self.open_cells -= 1
            if not self.open_cells:
                self.kept.clear()
                done(self)

        for number, lane in enumerate(lanes):
            self.driver.run(f"cells {number}", self._lane(lane), one_done, self.random.uniform(0.0, 0.3))

    def _lane(self, names: list[str]) -> Code:
        for name in names:
            self.world.simulation.note(self.driver.name, f"cell {name}")
            yield from getattr(self, name)()
            if self.random.random() < 0.3:
                yield Sleep(self.random.uniform(0.0, 0.7))
