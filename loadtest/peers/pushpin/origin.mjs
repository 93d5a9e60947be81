// The backend that Pushpin stands in front of: history in memory, and what GRIP wants to be told.
//
// A subscriber's request comes here once, through Pushpin. The answer is its history and how to go on: hold the
// connection on the stream's channel, after the id that history ends with. What is published has the id that it follows, too;
// where the two do not meet Pushpin fetches what is missing from here. So nothing is missed at the seam.
//
// Pushpin's control port serves one request a connection, so publishing is a group commit: while one request is out, what
// comes in gathers for the next, and a stream's events in one request are one item, delivered with one write.

import { createServer, request } from "node:http";
import { connect } from "node:net";

const HISTORY_EVENTS_MAX = 1_000;
// Pushpin takes no more than 100,000 bytes in an answer that holds; longer history is sent in several answers.
const PAGE_BYTES_MAX = 64_000;
const PUBLISH_EVENTS_MAX = 10_000;
const PUBLISHER_IDLE_MS = 300_000;
const BACKLOG = 19_000;

const [port, controlPort] = process.argv.slice(2).map(Number);

class Stream {
    history = [];
    lastId = 0;

    append(lines) {
        const events = lines.map((line, index) => `id: ${this.lastId + index + 1}\ndata: ${line}\n\n`);
        this.lastId += events.length;
        this.history.push(...events);
        this.history.splice(0, this.history.length - HISTORY_EVENTS_MAX);
        return events.join("");
    }

    // What follows an id, as far as a page goes, and the id that it ends with.
    page(seen) {
        const missing = seen <= this.lastId ? this.lastId - seen : this.lastId;
        let next = Math.max(0, this.history.length - missing);
        let body = "";
        while (next < this.history.length && body.length < PAGE_BYTES_MAX) {
            body += this.history[next++];
        }
        return { body, end: this.lastId - (this.history.length - next) };
    }
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

function subscribe(request, response, name, query) {
    const stream = streamOf(name);
    // Pushpin asks with what it has sent last; a page's link says it, a client gives it in its header.
    const seen = /last-id=(\d+)/.exec(request.headers["grip-last"])?.[1] ?? query.get("after");
    const { body, end } = stream.page(Number(seen ?? request.headers["last-event-id"] ?? 0));
    response.setHeader("Content-Type", "text/event-stream");
    response.setHeader("Cache-Control", "no-cache");
    if (end < stream.lastId) {
        response.setHeader("Grip-Link", `</streams/${name}?after=${end}>; rel=next`);
    } else {
        response.setHeader("Grip-Hold", "stream");
        response.setHeader("Grip-Channel", `${name}; prev-id=${end}`);
        response.setHeader("Grip-Link", `</streams/${name}>; rel=next`);
        response.setHeader("Grip-Keep-Alive", ":keepalive\\n\\n; format=cstring; timeout=15");
    }
    response.end(body);
}

let gathered = [];
let publishing = false;

async function publish(name, lines) {
    const stream = streamOf(name);
    const previous = stream.lastId;
    const content = stream.append(lines);
    const done = new Promise((resolve, reject) => {
        gathered.push({ name, previous, last: stream.lastId, content, resolve, reject });
    });
    if (!publishing) {
        publishing = true;
        while (gathered.length > 0) {
            const batch = gathered.splice(0, PUBLISH_EVENTS_MAX);
            try {
                await control(itemsOf(batch));
                batch.forEach(({ resolve }) => resolve());
            } catch (error) {
                batch.forEach(({ reject }) => reject(error));
            }
        }
        publishing = false;
    }
    await done;
}

function itemsOf(batch) {
    const items = new Map();
    for (const { name, previous, last, content } of batch) {
        const item = items.get(name);
        if (item === undefined) {
            const stream = { content };
            items.set(name, { channel: name, id: `${last}`, "prev-id": `${previous}`, formats: { "http-stream": stream } });
        } else {
            item.id = `${last}`;
            item.formats["http-stream"].content += content;
        }
    }
    return [...items.values()];
}

function control(items) {
    return new Promise((resolve, reject) => {
        const body = Buffer.from(JSON.stringify({ items }));
        const headers = { "Content-Type": "application/json", "Content-Length": body.length };
        const out = request({ port: controlPort, host: "127.0.0.1", method: "POST", path: "/publish/", headers, agent: false });
        out.on("response", (answer) => {
            answer.resume();
            answer.on("end", () => (answer.statusCode === 200 ? resolve() : reject(new Error(`${answer.statusCode}`))));
        });
        out.on("error", reject);
        out.end(body);
    });
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
    const url = new URL(request.url, "http://origin");
    const name = /^\/streams\/([\w.-]+)$/.exec(url.pathname)?.[1];
    if (name === undefined) {
        response.writeHead(404).end();
    } else if (request.method === "GET") {
        subscribe(request, response, name, url.searchParams);
    } else if (request.method === "POST") {
        const lines = (await bodyOf(request)).split("\n").filter((line) => line !== "");
        if (lines.length > 0) {
            await publish(name, lines);
        }
        response.writeHead(204).end();
    } else {
        response.writeHead(405).end();
    }
}

const server = createServer({ keepAliveTimeout: PUBLISHER_IDLE_MS }, (request, response) => {
    serve(request, response).catch(() => response.writeHead(502).end());
});

// Whoever reaches this port may publish, so it opens only when Pushpin's control port is open.
function listenWhenPushpinDoes() {
    const probe = connect(controlPort, "127.0.0.1");
    probe.on("connect", () => {
        probe.destroy();
        server.listen({ host: "127.0.0.1", port, backlog: BACKLOG });
    });
    probe.on("error", () => setTimeout(listenWhenPushpinDoes, 50));
}

listenWhenPushpinDoes();
