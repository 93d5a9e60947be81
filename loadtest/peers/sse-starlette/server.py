"""Streams of events over SSE with FastAPI and sse-starlette, history in memory.

An event is encoded once, when it is published, whoever reads it. A subscriber is no queue but a position in its
stream's history: it reads up to the end, sends that in one piece, and waits for more. Between reading and waiting
there is no `await`, so an event is neither missed nor seen twice where history ends and live begins.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from itertools import islice
from typing import Annotated

from fastapi import FastAPI, Header, Request, Response
from sse_starlette import EventSourceResponse, ServerSentEvent

HISTORY_EVENTS_MAX = 1_000
KEEPALIVE_SECONDS = 15

KEEPALIVE = ServerSentEvent(comment="keepalive", sep="\n")


class Stream:
    """The newest events of one stream, and whoever waits for the next one."""

    def __init__(self) -> None:
        self.last_id = 0
        self.history: deque[bytes] = deque(maxlen=HISTORY_EVENTS_MAX)
        self.changed = asyncio.Event()

    def publish(self, lines: list[str]) -> None:
        for line in lines:
            self.last_id += 1
            self.history.append(ServerSentEvent(line, id=str(self.last_id), sep="\n").encode())
        # Everyone who waited wakes; who comes from now on waits for the next change.
        self.changed.set()
        self.changed = asyncio.Event()

    async def follow(self, seen: int) -> AsyncIterator[bytes]:
        """The events after id `seen`, as many at a time as there are. What history has dropped is skipped."""
        if seen > self.last_id:
            seen = 0  # an id from before a restart
        while True:
            if seen < self.last_id:
                missing = min(self.last_id - seen, len(self.history))
                # From the right, since a deque is walked from its nearer end and readers are close to the newest.
                newest_first = list(islice(reversed(self.history), missing))
                seen = self.last_id
                yield b"".join(reversed(newest_first))
            else:
                await self.changed.wait()


app = FastAPI(openapi_url=None)
streams: defaultdict[str, Stream] = defaultdict(Stream)


@app.get("/streams/{name}")
async def subscribe(name: str, last_event_id: Annotated[int, Header(ge=0)] = 0) -> EventSourceResponse:
    return EventSourceResponse(
        streams[name].follow(last_event_id),
        ping=KEEPALIVE_SECONDS,
        ping_message_factory=lambda: KEEPALIVE,
        sep="\n",
    )


@app.post("/streams/{name}", status_code=204)
async def publish(name: str, request: Request) -> Response:
    body = (await request.body()).decode()
    lines = [line for line in body.split("\n") if line]
    if lines:
        streams[name].publish(lines)
    return Response(status_code=204)
