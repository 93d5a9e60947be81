// Streams of events over SSE with better-sse on node:http, history in memory.
//
// What is published together is written into one event buffer, once, and every session gets that buffer: better-sse's
// way to send several events with one write. A session is replayed to and registered in the same turn of the
// event loop, so an event is neither missed nor seen twice where history ends and live begins.

import { createServer } from "node:http";
import { createChannel, createEventBuffer, createSession } from "better-sse";

const HISTORY_EVENTS_MAX = 1_000;
const KEEPALIVE_MS = 15_000;
const PUBLISHER_IDLE_MS = 300_000;
const BACKLOG = 19_000;

// Lines come as JSON and go out as they are.
const serializer = (line) => line;

class Stream {
    channel = createChannel();
    history = [];
    lastId = 0;

    publish(lines) {
        const firstId = this.lastId + 1;
        this.lastId += lines.length;
        this.history.push(...lines);
        this.history.splice(0, this.history.length - HISTORY_EVENTS_MAX);
        const events = encode(lines, firstId);
        for (const session of this.channel.activeSessions) {
            session.batch(events);
        }
    }

    subscribe(session) {
        const lastId = Number(session.lastId);
        // An id that was never given is one from before a restart, or none at all: begin with the oldest.
        const missing = lastId <= this.lastId ? this.lastId - lastId : this.lastId;
        const lines = this.history.slice(Math.max(0, this.history.length - missing));
        if (lines.length > 0) {
            session.batch(encode(lines, this.lastId - lines.length + 1));
        }
        this.channel.register(session);
    }
}

function encode(lines, firstId) {
    const buffer = createEventBuffer({ serializer });
    lines.forEach((line, index) => buffer.id(String(firstId + index)).data(line).dispatch());
    return buffer;
}

const streams = new Map();

function streamOf(name) {
    let stream = streams.get(name);
    if (stream === undefined) {
        stream = new Stream();
        streams.set(name, stream);
    }
    return stream;
}

async function bodyOf(request) {
    request.setEncoding("utf8");
    let body = "";
    for await (const chunk of request) {
        body += chunk;
    }
    return body;
}

async function serve(request, response) {
    const name = /^\/streams\/([^/?]+)$/.exec(request.url)?.[1];
    if (name === undefined) {
        response.writeHead(404).end();
    } else if (request.method === "GET") {
        streamOf(name).subscribe(await createSession(request, response, { keepAlive: KEEPALIVE_MS }));
    } else if (request.method === "POST") {
        const lines = (await bodyOf(request)).split("\n").filter((line) => line !== "");
        if (lines.length > 0) {
            streamOf(name).publish(lines);
        }
        response.writeHead(204).end();
    } else {
        response.writeHead(405).end();
    }
}

const server = createServer({ keepAliveTimeout: PUBLISHER_IDLE_MS }, (request, response) => {
    serve(request, response).catch(() => response.destroy());
});
server.listen({ host: "127.0.0.1", port: Number(process.argv[2]), backlog: BACKLOG });
