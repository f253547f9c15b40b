// Follow a stream of Evershell; print when it opens, and the data of each event.
// Argument: the URL with the credential, as a browser's EventSource needs it.
import { EventSource } from "eventsource";

const source = new EventSource(process.argv[2]);
source.addEventListener("open", () => console.log("open"));
source.addEventListener("activity", ({ data, lastEventId }) => console.log(lastEventId, data));
source.addEventListener("error", ({ code, message }) => console.error(code, message));
