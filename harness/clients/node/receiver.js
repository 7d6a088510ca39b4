/** The ways of receiving, as an application would write them. */

"use strict";

const { tell, text } = require("./told.js");

/** The page of the tutorial: every event counts, and the latest has the offset to go on from. */
function tutorial(socket, broadcast) {
  socket.auth = { serverOffset: 0 };
  socket.on(broadcast, (content, offset) => {
    received(content, offset);
    socket.auth.serverOffset = offset;
  });
}

/** Nothing twice, and on from the highest offset. */
function hardened(socket, broadcast) {
  const seen = new Set();
  let highest = 0;
  socket.auth = (answer) => answer({ serverOffset: highest });
  socket.on(broadcast, (content, offset) => {
    if (seen.has(offset)) {
      return;
    }
    if (offset !== undefined && offset !== null) {
      seen.add(offset);
      // Texts have no order that we know: the latest, as the tutorial does.
      highest = typeof offset === "number" && typeof highest === "number" ? Math.max(highest, offset) : offset;
    }
    received(content, offset);
  });
}

function received(content, offset) {
  tell({
    event: "received",
    content: typeof content === "string" ? text(content) : null,
    server_offset: typeof offset === "string" ? text(offset) : typeof offset === "number" ? offset : null,
  });
}

function forgetful(socket, broadcast) {
  socket.auth = { serverOffset: 0 };
  socket.on(broadcast, received);
}

const STYLES = { tutorial, hardened, forgetful };

/**
 * Listen to a broadcast, from the next connection on.
 *
 * @param {import("socket.io-client").Socket} socket that is not connected
 * @param {{broadcast: string, style: string}} receiving what to listen to, and how
 */
function listen(socket, { broadcast, style }) {
  if (!Object.hasOwn(STYLES, style)) {
    throw new Error(`there is no style ${JSON.stringify(style)} to receive in`);
  }
  socket.off(broadcast);
  STYLES[style](socket, broadcast);
}

module.exports = { listen };
