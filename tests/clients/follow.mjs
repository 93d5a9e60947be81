// What every EventSource is asked to do here.
export function follow(EventSource) {
  const [url, ...types] = process.argv.slice(2);
  const source = new EventSource(url);
  const CLOSED = 2;
  source.addEventListener("open", () => console.log("open"));
  for (const type of types) {
    source.addEventListener(type, (event) => {
      const data = JSON.parse(event.data);
      if (String(data.id) !== event.lastEventId || data.type !== type) {
        throw new Error(`${event.lastEventId} ${type} is not ${event.data}`);
      }
      console.log(`event ${event.lastEventId} ${event.type}`);
    });
  }
  source.addEventListener("error", () => {
    // Anything else is tried again.
    if (source.readyState === CLOSED) {
      console.log("end");
      process.exit(0);
    }
  });
}
