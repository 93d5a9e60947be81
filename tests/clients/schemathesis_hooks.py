"""What schemathesis has to know beside the document: NDJSON, and how not to wait."""

import json

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def ndjson(ctx, value):
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode("utf-8", "surrogatepass")


@schemathesis.hook
def filter_query(ctx, query):
    # What should be a list and is none is a list of one, once it stands in a URL: `types=false`.
    return all(isinstance((query or {}).get(name, []), list) for name in ("types", "runs"))


@schemathesis.hook
def before_call(ctx, case, kwargs):
    query = case.query
    # A poll for which there is nothing would wait.
    if str(query.get("wait", "0")).isdigit() and 0 < int(query.get("wait", "0")) <= 60:
        query["wait"] = 0
    # A stream on which nothing happens has heartbeats, and ends with the first.
    is_stream = case.path.endswith("/stream") or case.path.startswith("/api/sse/")
    if is_stream and query.get("heartbeat", "") in ("", "comment"):
        query["heartbeat"] = "event"
