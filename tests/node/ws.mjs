// Open a WebSocket; print when it opens, each message, or the reason for a refusal.
// Arguments: the URL, and optionally the credential to send as a header.
import WebSocket from "ws";

const [url, credential] = process.argv.slice(2);
const socket = new WebSocket(url, { headers: credential ? { Authorization: `Bearer ${credential}` } : {} });
socket.on("open", () => console.log("open"));
socket.on("message", (data) => console.log(String(data)));
socket.on("close", (code) => console.log(`closed ${code}`));
socket.on("error", (error) => console.error(String(error)));
socket.on("unexpected-response", (_, response) => {
  response.setEncoding("utf8");
  let body = "";
  response.on("data", (chunk) => (body += chunk));
  response.on("end", () => {
    console.log(`refused ${response.statusCode} ${body}`);
    process.exit();
  });
});
