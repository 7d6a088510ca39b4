/** The ways of sending, as an application would write them; see PROTOCOL.md for what each promises. */

"use strict";

const crypto = require("node:crypto");

const IN_FLIGHT = 8;

/**
 * @typedef {object} Page what an application has in its hands
 * @property {import("socket.io-client").Socket} socket
 * @property {import("./ledger.js").Ledger} ledger
 * @property {string} event
 * @property {number} ackTimeoutMs
 * @property {number} seed
 * @property {boolean} alive false once it was reloaded
 *
 * @typedef {object} Policy
 * @property {number} patience after so many unanswered tries on it a connection is given up for another
 * @property {boolean} timed an attempt ends at the ack timeout
 * @property {boolean} queued the client's own queue sends, with one message in flight
 * @property {boolean} silent nobody is told what became of a message
 * @property {(ackTimeoutMs: number) => object} options of the client
 * @property {(page: Page) => (message: object) => void} start what takes a message, from then on
 */

/** The client's own queue: `retries`, with or without `ackTimeout`, with or without a callback. */
function queue({ retries, timed = true, silent = false, patience = Infinity }) {
  return {
    patience,
    timed,
    queued: true,
    silent,
    options: (ackTimeoutMs) => ({ retries, ...(timed && { ackTimeout: ackTimeoutMs }) }),
    start: (page) => (message) => {
      const { socket, event } = page;
      if (silent) {
        socket.emit(event, message.content, message.offset);
      } else {
        socket.emit(event, message.content, message.offset, (error) => conclude(page, message, error));
      }
    },
  };
}

/** A way of its own, on a client without options. */
function own(start, timed = true) {
  return { patience: Infinity, timed, queued: false, silent: false, options: () => ({}), start };
}

/** The first example of the page on delivery: again, until it is acknowledged. */
const resend = own((page) => {
  const take = (message) =>
    emit(page, message, message.offset, (error) => {
      if (error) {
        take(message);
      } else {
        page.ledger.settle(message, "acknowledged");
      }
    });
  return take;
});

const pipelined = own((page) => {
  const waiting = [];
  let inFlight = 0;
  const next = () => {
    while (page.socket.connected && inFlight < IN_FLIGHT && waiting.length > 0) {
      const message = waiting.shift();
      inFlight++;
      emit(page, message, message.offset, (error) => {
        inFlight--;
        if (error && message.attempts === 0) {
          page.ledger.dropped(message, message.offset, error.message);
        }
        conclude(page, message, error);
        next();
      });
    }
  };
  page.socket.on("connect", next);
  return (message) => {
    waiting.push(message);
    next();
  };
});

const fireAndForget = own((page) => (message) => {
  page.ledger.settle(message, "handed-over");
  page.socket.emit(page.event, message.content, message.offset);
}, false);

const once = own((page) => (message) => {
  page.ledger.settle(message, "handed-over");
  if (!page.socket.connected) {
    page.ledger.dropped(message, message.offset, "not connected");
    return;
  }
  emit(page, message, message.offset, (error) => {
    // It was in the buffer only: the client found its connection dead.
    if (error && message.attempts === 0) {
      page.ledger.dropped(message, message.offset, error.message);
    }
  });
});

const newOffset = own((page) => {
  const waiting = [];
  let busy = false;
  const next = () => {
    if (busy || !page.socket.connected || waiting.length === 0) {
      return;
    }
    busy = true;
    const [message] = waiting;
    const offset = message.attempts > 0 ? freshOffset(page.seed, message) : message.offset;
    page.ledger.alias(message, offset);
    emit(page, message, offset, (error) => {
      busy = false;
      if (!error) {
        waiting.shift();
        page.ledger.settle(message, "acknowledged");
      }
      next();
    });
  };
  page.socket.on("connect", next);
  return (message) => {
    waiting.push(message);
    next();
  };
});

const POLICIES = {
  // A connection can be dead for a whole heartbeat: when an upgrade was cut behind its probe, the client sends nothing.
  persistent: queue({ retries: Infinity, patience: 3 }),
  tutorial: queue({ retries: 3, silent: true }),
  "tutorial-untimed": queue({ retries: 3, timed: false }),
  resend,
  pipelined,
  "fire-and-forget": fireAndForget,
  once,
  "new-offset": newOffset,
};

/** Emit with an acknowledgement and a timeout; `then` is called unless the page was reloaded meanwhile. */
function emit(page, message, offset, then) {
  page.socket.timeout(page.ackTimeoutMs).emit(page.event, message.content, offset, (error) => {
    if (!page.alive) {
      return;
    }
    if (error) {
      page.ledger.unanswered(message, error);
    }
    then(error);
  });
}

/** The sender is told. Without `ackTimeout` a bare acknowledgement arrives here as an error that is undefined. */
function conclude(page, message, error) {
  if (!page.alive) {
    return;
  }
  if (error === null) {
    page.ledger.settle(message, "acknowledged");
  } else {
    page.ledger.unanswered(message, error);
    page.ledger.settle(message, "gave-up");
  }
}

/** An offset that was not there before, and the same one in a run with the same seed. */
function freshOffset(seed, message) {
  const digits = crypto.createHash("sha256").update(`${seed} ${message.id} ${message.attempts}`).digest("hex");
  const [a, b, c, d, e] = [8, 12, 16, 20, 32].map((end, i) => digits.slice([0, 8, 12, 16, 20][i], end));
  return `${message.offset}-${a}-${b}-4${c.slice(1)}-8${d.slice(1)}-${e}`;
}

/**
 * The policy of a name.
 *
 * @param {string} name
 * @returns {Policy}
 */
function policyOf(name) {
  const retries = /^retries=([1-9][0-9]*)$/.exec(name);
  if (retries) {
    return queue({ retries: Number(retries[1]) });
  }
  if (!Object.hasOwn(POLICIES, name)) {
    throw new Error(`there is no policy ${JSON.stringify(name)} in this driver`);
  }
  return POLICIES[name];
}

module.exports = { policyOf };
