"""Follows a stream with httpx-sse, and says what it sees, a line each:

    open
    event ID TYPE
    end        the server has said that there is no more (204)

python httpx_sse_client.py URL
"""

import json
import sys
import time

import httpx
from httpx_sse import connect_sse


def follow(url: str) -> None:
    last_event_id = ""
    wait = 3.0
    with httpx.Client(timeout=httpx.Timeout(10, read=60)) as client:
        while True:
            headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
            try:
                with connect_sse(client, "GET", url, headers=headers) as source:
                    if source.response.status_code == 204:
                        say("end")
                        return
                    source.response.raise_for_status()
                    say("open")
                    for event in source.iter_sse():
                        if event.retry is not None:
                            wait = event.retry / 1000
                        if event.id:
                            last_event_id = event.id
                        if event.data and not event.event.startswith("stream."):
                            data = json.loads(event.data)
                            assert (str(data["id"]), data["type"]) == (event.id, event.event)
                            say(f"event {event.id} {event.event}")
            except httpx.TransportError:
                pass
            time.sleep(wait)


def say(line: str) -> None:
    print(line, flush=True)


follow(sys.argv[1])
