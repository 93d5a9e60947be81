// The same with event-source-polyfill, which sends its cursor as ?lastEventId=.
import { follow } from "./follow.mjs";

// Over fetch it reads the body of every answer before it looks at the status, and a 204 has none
// (version 1.0.31): it would take that for a broken connection and come back for ever. An empty
// body in its place is what a page has to give it, until that is mended there.
const fetch = globalThis.fetch;
globalThis.fetch = async (url, options) => {
  const response = await fetch(url, options);
  if (response.body !== null) {
    return response;
  }
  const { status, statusText, headers } = response;
  return { status, statusText, headers, body: new Blob([]).stream() };
};

const { default: polyfill } = await import("event-source-polyfill");
follow(polyfill.EventSourcePolyfill);
