"""An alarm for traffic that is no longer what a dispatcher was calibrated on."""

from __future__ import annotations

from dataclasses import dataclass, field

REQUESTS_PER_FALSE_ALARM = 100_000
"""On usual traffic the alarm is false once in so many requests, or less often."""
MORE = 0.1
"""The alarm is quickest if so many more of the requests than usual are strange."""


@dataclass
class DriftAlarm:
    """Watches how many requests are not recognised, with the procedure of Shiryaev and Roberts.

    R <- (1 + R) L after each request, with the likelihood ratio L of ``usual + MORE`` to ``usual``; the alarm is raised
    when R reaches h = ``REQUESTS_PER_FALSE_ALARM``. While a request is strange with probability ``usual`` or less,
    given all requests before it, E[L] <= 1, so that R - n is a supermartingale: the alarm comes after h requests or
    more on average, and within n requests with probability n / h or less (Shiryaev 1963; Roberts 1966; Pollak 1985.
    Over conformal p-values: Vovk et al. 2021, "Retrain or Not Retrain: Conformal Test Martingales for Change-Point
    Detection").

    Attributes:
        usual: Upper bound of how often usual requests are strange, such as ``Facts.strange_at_most``; below 1.
        requests: Requests that were observed.
        strange: Those of them that were not recognised.
        raised: Whether the alarm was raised, and at which request; None if it was not.
    """

    usual: float
    requests: int = 0
    strange: int = 0
    raised: int | None = None
    _evidence: float = field(default=0.0, repr=False)

    def observe(self, strange: bool) -> bool:
        """Take in one request, and return whether it raises the alarm, which happens once.

        Args:
            strange: Whether the dispatcher did not recognise it (``Decision.label`` is None).
        """
        self.requests += 1
        self.strange += strange
        more = min(self.usual + MORE, (1 + self.usual) / 2)
        ratio = more / self.usual if strange else (1 - more) / (1 - self.usual)
        if self.raised is None:
            self._evidence = (1 + self._evidence) * ratio
            if self._evidence >= REQUESTS_PER_FALSE_ALARM:
                self.raised = self.requests
                return True
        return False
