"""The budget: a call is made only if it fits even with its longest reply."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from distill.judging.chat import ChatRequest, estimate_tokens
from distill.judging.purchases import Purchase
from distill.judging.settings import BudgetSettings

_TOKENS_PRICED = 1_000_000


def price(settings: BudgetSettings, tokens_in: int, tokens_out: int) -> float | None:
    """US$, or None without prices."""
    if settings.input_price is None or settings.output_price is None:
        return None
    return (tokens_in * settings.input_price + tokens_out * settings.output_price) / _TOKENS_PRICED


@dataclass(frozen=True)
class CostEstimate:
    """The highest cost of some calls."""

    calls: int
    tokens_in: int
    tokens_out: int
    cost: float | None
    """US$, None without prices."""

    def __str__(self) -> str:
        cost = "cost unknown: no prices" if self.cost is None else f"at most {self.cost:.4f} US$"
        return f"{self.calls} calls, about {self.tokens_in} tokens in, at most {self.tokens_out} out, {cost}"


def estimate(settings: BudgetSettings, requests: Iterable[ChatRequest]) -> CostEstimate:
    """The highest cost of asking each request once."""
    tokens = [(estimate_tokens(request.prompt), request.longest_reply) for request in requests]
    tokens_in, tokens_out = sum(t for t, _ in tokens), sum(t for _, t in tokens)
    return CostEstimate(len(tokens), tokens_in, tokens_out, price(settings, tokens_in, tokens_out))


class Budget:
    """Calls and US$ spent by one purpose; calls under way count at their highest price."""

    def __init__(self, settings: BudgetSettings, purpose: str, purchases: Iterable[Purchase]) -> None:
        """`purchases`: everything bought so far, by any purpose."""
        self.settings, self.purpose = settings, purpose
        self.calls, self.cost = 0, 0.0
        self._calls_reserved, self._cost_reserved = 0, 0.0
        for purchase in purchases:
            if purchase.purpose == purpose:
                self._count(purchase)

    def most(self, request: ChatRequest) -> float:
        """The most US$ that one call can cost; 0 without prices."""
        return price(self.settings, estimate_tokens(request.prompt), request.longest_reply) or 0.0

    def reserve(self, request: ChatRequest) -> str | None:
        """Reserve a call's highest price; return the reason if it does not fit."""
        calls, cost = self.calls + self._calls_reserved + 1, self.cost + self._cost_reserved + self.most(request)
        if self.settings.max_calls is not None and calls > self.settings.max_calls:
            return f"max_calls {self.settings.max_calls} is reached"
        if self.settings.max_cost is not None and cost > self.settings.max_cost:
            return f"max_cost {self.settings.max_cost} US$ is reached"
        self._calls_reserved += 1
        self._cost_reserved += self.most(request)
        return None

    def release(self, request: ChatRequest, purchase: Purchase | None = None) -> None:
        """End a call: nothing was billed, or `purchase` was."""
        self._calls_reserved -= 1
        self._cost_reserved -= self.most(request)
        if purchase is not None:
            self._count(purchase)

    def _count(self, purchase: Purchase) -> None:
        self.calls += 1
        # Bought without prices: count it at today's.
        cost = purchase.cost if purchase.cost is not None else price(self.settings, *_tokens(purchase))
        self.cost += max(cost or 0.0, 0.0)  # no reply, however it is counted, gives money back


def _tokens(purchase: Purchase) -> tuple[int, int]:
    return purchase.tokens_in, purchase.tokens_out
