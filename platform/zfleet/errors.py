"""Every error that zfleet raises on purpose: one tree, picklable, each with a remedy.

An error crosses process borders (Ray tasks, engine actors), so it must survive pickling
with its message and its remedy. The command line prints both and exits with 1.
"""

from __future__ import annotations


class ZfleetError(Exception):
    """What went wrong (field and value named) and what to do about it."""

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message, remedy)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class SpecError(ZfleetError):
    """A job spec, an override or a command-line argument that cannot be used."""


class BaseModelError(ZfleetError):
    """A base that cannot be loaded or decomposed."""


class FactorsError(ZfleetError):
    """Factors that are missing, damaged or belong to another base."""


class ZVectorError(ZfleetError):
    """A z-vector that cannot be used."""


class InvalidZ(ZVectorError):
    """A z that is not finite, has wrong shapes or comes from a damaged file."""


class TrainingDiverged(InvalidZ):
    """A gradient that is not finite, or an expert too far from the base: the step must not be checkpointed.

    Attributes:
        expert: Name of the expert that diverged.
    """

    def __init__(self, message: str, remedy: str = "", expert: str = "") -> None:
        super().__init__(message, remedy)
        self.args = (message, remedy, expert)
        self.expert = expert


class WrongBase(ZVectorError):
    """A z that was trained on another base or on other factors."""


class UnknownZ(ZVectorError):
    """A digest the engine was never given, or has dropped."""


class FormatError(ZfleetError):
    """A file or folder in another program's format that cannot be read or written."""


class EngineError(ZfleetError):
    """A request the engine refuses or cannot finish; other requests go on."""


class WrongZ(EngineError):
    """An answer was computed under another z than it was asked for."""


class InvalidRequest(EngineError):
    """Sampling parameters or a prompt that make no sense."""


class RequestTooLong(EngineError):
    """Prompt and answer together exceed the engine's cache or the base's context."""


class BodyTooLarge(EngineError):
    """A request's body is larger than the service reads."""


class RequestAborted(EngineError):
    """The request was aborted before it finished."""


class TaskError(ZfleetError):
    """Task data that cannot be read: file and line are named."""


class RewardError(ZfleetError):
    """A reward function that raised, or returned something that is no finite number."""


class NotThisTask(RewardError):
    """A reward function that says a sample is none of its task's: it is left out, without a warning."""


class CannotTell(RewardError):
    """A grader that cannot judge an answer faithfully: the answer is left out, and is neither right nor wrong."""


class SandboxError(ZfleetError):
    """Code that a model wrote cannot be run here: no verdict is given on it."""


class CheckpointError(ZfleetError):
    """A checkpoint that is damaged or belongs to another run."""


class SamplesError(ZfleetError):
    """Samples of a run that are not there, or cannot be read."""


class DispatcherError(ZfleetError):
    """A dispatcher that cannot be used: damaged, or of other labels, experts or prompts than it is given."""


class RegistryError(ZfleetError):
    """The registry cannot do what was asked."""


class RegistryUnreachable(RegistryError):
    """The tracking server or its database does not answer.

    Attributes:
        reason: Why, without any address or path: fit for the clients of a service.
    """

    def __init__(self, message: str, remedy: str = "", reason: str = "it does not answer") -> None:
        super().__init__(message, remedy)
        self.args = (message, remedy, reason)
        self.reason = reason


class AccessDenied(RegistryError):
    """The registry's server does not accept the user, or the user lacks a right.

    Attributes:
        right: What the user may not do: read, write, promote or manage.
    """

    def __init__(self, message: str, remedy: str = "", right: str = "read") -> None:
        super().__init__(message, remedy)
        self.args = (message, remedy, right)
        self.right = right


class ExpertNotFound(RegistryError):
    """No expert, version or alias of that name."""


class CorruptArtifact(RegistryError):
    """A stored artifact that does not match what was registered."""


class UntrustedVersion(RegistryError):
    """A version that must be signed, and is not, or by nobody who is trusted."""


class ClusterError(ZfleetError):
    """No Ray cluster answers, or none can be started."""


class ServeError(ZfleetError):
    """The service cannot start or run."""


class JobError(ZfleetError):
    """A Ray job that failed for a reason its user can act on."""


class KeysError(ZfleetError):
    """API keys, or the database that holds them, that cannot be used."""


class NotAuthenticated(ZfleetError):
    """A request without a valid API key."""


class NotAllowed(ZfleetError):
    """A request for something that its API key may not ask for."""


class LimitReached(ZfleetError):
    """A request beyond the rate or the budget of its API key.

    Attributes:
        retry_seconds: When it may be sent again.
        budget: Whether the budget of the month is used up, and not a rate.
    """

    def __init__(self, message: str, remedy: str = "", retry_seconds: float = 1.0, budget: bool = False) -> None:
        super().__init__(message, remedy)
        self.args = (message, remedy, retry_seconds, budget)
        self.retry_seconds = retry_seconds
        self.budget = budget


class Overloaded(EngineError):
    """A request that finds no room in a queue.

    Attributes:
        retry_seconds: When it may be sent again.
        own: Whether the client's own requests fill the queue, and not those of all.
    """

    def __init__(self, message: str, remedy: str = "", retry_seconds: float = 1.0, own: bool = False) -> None:
        super().__init__(message, remedy)
        self.args = (message, remedy, retry_seconds, own)
        self.retry_seconds = retry_seconds
        self.own = own


class DeadlineExceeded(EngineError):
    """A request that took longer than the service gives one."""
