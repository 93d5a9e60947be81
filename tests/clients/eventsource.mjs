// Follows a stream with npm's eventsource, and says what it sees, a line each:
//   open
//   event ID TYPE
//   end        the server has said that there is no more (204)
//
// node eventsource.mjs URL TYPE…
import { EventSource } from "eventsource";
import { follow } from "./follow.mjs";

follow(EventSource);
