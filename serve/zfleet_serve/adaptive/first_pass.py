"""The first pass: who answers a request of model ``auto``, or of a dispatcher's name."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from zfleet.adapt.asking import AskingDispatcher
from zfleet.adapt.calibration import Calibration
from zfleet.adapt.cascade import for_task
from zfleet.adapt.contract import Decision, Dispatcher
from zfleet.adapt.drift import DriftAlarm
from zfleet.engine.contract import BASE_Z, Engine
from zfleet.errors import DispatcherError, InvalidRequest
from zfleet_registry import ExpertVersion
from zfleet_serve.adaptive.experts import Experts, Part, parts_of
from zfleet_serve.adaptive.names import ModelNotFound
from zfleet_serve.adaptive.settings import Served

OPENED = 8
"""The most dispatchers that are kept open, each with its counts."""
_LIKELY = Calibration(limit=0.5)
"""Of a bare classifier: it names a label if its answer is probably one. It always decides."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Route:
    """The experts that answer a request.

    Attributes:
        model: The full name, version included.
        parts: The experts and their alphas; empty for the base.
        decision: The decision of the first pass, if there was one.
        z: The digest of the chosen z.
        first_pass_ms: How long the first pass took, if there was one.
    """

    model: str
    parts: tuple[Part, ...]
    decision: Decision | None
    z: str
    first_pass_ms: float | None


@dataclass(frozen=True)
class _Opened:
    """A dispatcher that answers requests.

    Attributes:
        name: Its version, such as ``router/3``.
        dispatcher: The dispatcher.
        experts: {reference: version} of those that it routes to or asks.
        asks: The experts that it asks.
        alarm: Watches for drift; None if the dispatcher is not calibrated.
    """

    name: str
    dispatcher: Dispatcher
    experts: Mapping[str, ExpertVersion]
    asks: tuple[ExpertVersion, ...]
    alarm: DriftAlarm | None


class FirstPass:
    """Chooses the experts that answer.

    Args:
        engine: Runs the first pass.
        experts: Finds experts and dispatchers, and gives experts to the same engine.
        render: Turns a user's text into the engine's prompt.
        served: The settings of the service.
    """

    def __init__(
        self, engine: Engine, experts: Experts, render: Callable[[str], tuple[int, ...]], served: Served
    ) -> None:
        self._engine = engine
        self._experts = experts
        self._render = render
        self._served = served
        self._opened: OrderedDict[str, _Opened] = OrderedDict()
        self._opening = asyncio.Lock()

    async def auto(self, user_text: str | None, task: str | None) -> Route:
        """Route a request of model ``auto``: by the service's dispatcher, or else by its classifier.

        Args:
            user_text: The user's text.
            task: The task that the request names; None if it names none.

        Raises:
            InvalidRequest: There is no text, or no mixture is bound to the task.
            ModelNotFound: There is no such dispatcher or classifier.
            ZfleetError: Any error of the registry and the engine.
        """
        if self._served.dispatcher is None:
            return await self._by_classifier(_text(user_text))
        return await self.by(await self._experts.resolve(self._served.dispatcher), user_text, task)

    async def by(self, version: ExpertVersion, user_text: str | None, task: str | None) -> Route:
        """Route a request by a dispatcher in the registry.

        Args:
            version: The dispatcher.
            user_text, task: As for ``auto``.

        Raises:
            InvalidRequest, ZfleetError: As ``auto``.
            DispatcherError: The version is no dispatcher, or the experts are not those that it was calibrated with.
        """
        text = _text(user_text)
        opened = await self._open(version)
        dispatcher = opened.dispatcher
        if task is not None:
            try:
                dispatcher = for_task(dispatcher, task)
            except DispatcherError as error:
                raise InvalidRequest(error.message, error.remedy) from error
        for expert in opened.asks:
            await self._experts.ready(expert)
        start = time.perf_counter()
        decision = await dispatcher.decide(self._engine, text)
        self._watch(opened, decision)
        return await self._route(decision, opened.experts, start)

    def state(self) -> list[dict[str, object]]:
        """Return what the open dispatchers have seen in this process: counts, and whether traffic has drifted."""
        return [
            {
                "dispatcher": opened.name,
                "requests": opened.alarm.requests,
                "not_recognised": opened.alarm.strange,
                "drift": opened.alarm.raised is not None,
            }
            for opened in self._opened.values()
            if opened.alarm is not None
        ]

    async def _open(self, version: ExpertVersion) -> _Opened:
        key = version.provenance.dispatcher_digest
        if key not in self._opened:
            # Once for all requests that wait for it: each would have counts of its own.
            async with self._opening:
                if key not in self._opened:
                    self._opened[key] = await self._load(version)
        self._opened.move_to_end(key)
        while len(self._opened) > OPENED:
            self._opened.popitem(last=False)
        return self._opened[key]

    async def _load(self, version: ExpertVersion) -> _Opened:
        if not version.is_dispatcher:
            raise DispatcherError(
                f"{version.reference} is an expert, not a dispatcher", "name what `zfleet calibrate` registered"
            )
        stored = await self._experts.load_dispatcher(version)
        document = stored.document
        found: dict[str, ExpertVersion] = {}
        for reference in document.experts:
            try:
                found[reference] = await self._experts.resolve(reference)
            except ModelNotFound:
                continue  # the check below names it
        stored.check_experts({reference: expert.z_digest for reference, expert in found.items()})
        for expert in found.values():
            stored.check_base(expert.provenance.base, expert.provenance.factors)
        asks = tuple(found[step.asks] for step in document.steps if step.asks is not None)
        usual = 1.0 if document.facts is None else document.facts.strange_at_most
        alarm = DriftAlarm(usual) if usual < 1.0 else None
        return _Opened(version.reference, stored.open(self._render), found, asks, alarm)

    def _watch(self, opened: _Opened, decision: Decision) -> None:
        alarm = opened.alarm
        if alarm is not None and alarm.observe(decision.label is None):
            _LOG.warning(
                "traffic has drifted from what dispatcher %s was calibrated on: it did not recognise %d of %d "
                "requests, and %.1f %% at most would be usual; calibrate a new version on prompts of today",
                opened.name,
                alarm.strange,
                alarm.requests,
                100 * alarm.usual,
            )

    async def _by_classifier(self, text: str) -> Route:
        served = self._served
        classifier = await self._experts.ready(await self._experts.resolve(served.classifier))
        reached = {
            name: version for name, version in (await self._experts.reached()).items() if name != served.classifier
        }
        names = {name: name for name in reached} | dict(served.labels)
        start = time.perf_counter()
        if not names:
            return await self._route(
                Decision("classifier", {}, 0.0, None, {}, "there are no experts: base", 0), {}, start
            )
        dispatcher = AskingDispatcher(
            kind="classifier",
            routes={label: {name: 1.0} if name in reached else {} for label, name in names.items()},
            calibration=_LIKELY,
            render=self._render,
            z_digest=classifier,
            question=served.ask,
        )
        decision = await dispatcher.decide(self._engine, text)
        if decision.label is not None and not decision.mixture:
            missing = f"there is no expert {names[decision.label]!r}: base"
            decision = replace(decision, reason=f"{decision.reason.removesuffix(': base')}, {missing}")
        return await self._route(decision, reached, start)

    async def _route(self, decision: Decision, experts: Mapping[str, ExpertVersion], start: float) -> Route:
        # If a chosen expert cannot be loaded, that is an error: the base never takes its place.
        chosen = [(experts[name], alpha) for name, alpha in decision.mixture.items()]
        parts: tuple[Part, ...] = ()
        if not chosen:
            z = BASE_Z
        elif len(chosen) == 1 and chosen[0][1] == 1.0:
            z, parts = await self._experts.ready(chosen[0][0]), parts_of(chosen[0][0])
        else:
            z = await self._experts.mixed(chosen)
            parts = tuple(Part(version.name, version.version, alpha) for version, alpha in chosen)
        base = self._served.base
        model = f"{base}:{'+'.join(version.reference for version, _ in chosen)}" if chosen else base
        return Route(model, parts, decision, z, milliseconds_since(start))


def milliseconds_since(start: float) -> float:
    """Milliseconds since a ``time.perf_counter()``."""
    return (time.perf_counter() - start) * 1000.0


def _text(user_text: str | None) -> str:
    if user_text is None:
        raise InvalidRequest("a dispatcher found no text of the user to look at", "send one prompt a request, as text")
    return user_text
