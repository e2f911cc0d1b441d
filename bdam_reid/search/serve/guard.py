"""Who may ask a server, how often, and how much at a time; and what browsers may do with its pages."""

from __future__ import annotations

import hmac
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlencode

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "bdam_search"
CLIENTS = 10_000
"""Clients whose rates are remembered."""
LARGEST = 32 << 20
"""Bytes of a body: some photographs of a telephone in base64."""
HEADERS = {
    # Nothing is fetched from elsewhere, whatever a page asks for; gradio's templates are compiled in the browser.
    "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval'; img-src 'self' data: blob:; "
    "font-src 'self' data:; worker-src 'self' blob:; base-uri 'self'; form-action 'self'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Rate:
    """A token bucket for each client.

    Args:
        burst: requests that a client may make at once.
        per_second: how many more it may make after each second.
        clock: seconds that only grow.
    """

    def __init__(self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._burst, self._per_second, self._clock = burst, per_second, clock
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, client: str) -> float:
        """Take a request of a client: 0 if it may be made, else the seconds until one may."""
        now = self._clock()
        left, before = self._left.pop(client, (float(self._burst), now))
        left = min(self._burst, left + (now - before) * self._per_second)
        allowed = left >= 1
        self._left[client] = (left - allowed, now)
        if len(self._left) > CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_second


@dataclass(frozen=True)
class Limits:
    """What a client may ask of a server."""

    questions: Rate
    """Everything that is sent: questions, and what the page does."""
    photographs: Rate
    body: int = LARGEST
    """Bytes."""


def usual_limits() -> Limits:
    """100 questions at once and 20 a second, 2,000 photographs at once and 200 a second."""
    return Limits(Rate(100, 20), Rate(2_000, 200))


class Guard:
    """Stands before an application.

    Args:
        app: the application.
        token: what all who ask must have; empty lets in everyone who gives one of `hosts` as the server's name.
        hosts: names by which a server without a token is asked. A page from elsewhere could otherwise let its own name
            point to this machine and read what is here.
        limits: for each client.
    """

    def __init__(self, app: ASGIApp, token: str, hosts: Collection[str], limits: Limits) -> None:
        self._app, self._token, self._hosts, self._limits = app, token, frozenset(hosts), limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        answer: ASGIApp = refusal if refusal is not None else self._app
        await answer(scope, self._counted(receive), _with_headers(send))

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if self._token:
            given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
            if given and self._is_token(given):
                return self._let_in(scope)
            if not self._is_token(_token_of(headers)):
                return refused(
                    401, "an access token is needed: open the address that the server printed, or send the header "
                    "Authorization: Bearer TOKEN"
                )  # fmt: skip
        elif _name_of(headers.get("host", "")) not in self._hosts:
            return refused(421, f"without a token the server is asked as {' or '.join(sorted(self._hosts))} alone")
        return self._too_much(scope, headers)

    def _too_much(self, scope: Scope, headers: Headers) -> Response | None:
        length = headers.get("content-length", "0")
        if not length.isdecimal() or len(length) > 15 or int(length) > self._limits.body:
            return refused(413, self._body_limit())
        rate = None
        if scope["method"] == "POST":
            rate = self._limits.questions
        elif scope["path"].startswith("/image/"):
            rate = self._limits.photographs
        wait = rate.wait(_client_of(scope)) if rate else 0.0
        if wait:
            seconds = math.ceil(wait)
            return refused(429, f"too many requests: try again in {seconds} s", {"Retry-After": str(seconds)})
        return None

    def _counted(self, receive: Receive) -> Receive:
        """Bodies that do not say how long they are."""
        came = 0

        async def counted() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self._limits.body:
                raise HTTPException(413, self._body_limit())
            return message

        return counted

    def _body_limit(self) -> str:
        return f"a request must be of {self._limits.body:,} bytes at most"

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), self._token.encode("utf-8"))

    def _let_in(self, scope: Scope) -> Response | None:
        """Who opens the address with the token gets it as a cookie, and the address without it."""
        if scope["method"] != "GET":
            return None
        rest = {name: of for name, of in parse_qs(scope["query_string"].decode("latin-1")).items() if name != "token"}
        # One slash: two would be the address of another machine.
        place = "/" + scope["path"].lstrip("/") + ("?" + urlencode(rest, doseq=True) if rest else "")
        response = RedirectResponse(place, 303)
        response.set_cookie(COOKIE, self._token, httponly=True, samesite="lax")
        return response


def refused(status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
    """What is said to a client whose request is not answered."""
    return JSONResponse({"error": sentence}, status, headers)


def _token_of(headers: Headers) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    try:
        cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return cookie.value if cookie else ""


def _name_of(host: str) -> str:
    """The name in a Host header, without the port."""
    name, colon, port = host.rpartition(":")
    return name if colon and port.isdecimal() else host


def _client_of(scope: Scope) -> str:
    return scope["client"][0] if scope.get("client") else ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            MutableHeaders(scope=message).update(HEADERS)
        await send(message)

    return sending
