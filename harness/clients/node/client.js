/** One Socket.IO client, from its making to its end: its connections, and the packets on them. */

"use strict";

const { createRequire } = require("node:module");

const { io } = require("socket.io-client");
// The client's own, wherever that is.
const { Decoder, PacketType } = createRequire(require.resolve("socket.io-client"))("socket.io-parser");

const { listen } = require("./receiver.js");
const { tell, text } = require("./told.js");
const wire = require("./wire.js");

const CONNECT_TIMEOUT_MS = 5000;

/**
 * The client is used as its users do. What is told of it is what its engine was given and got, not what the client
 * makes of that.
 */
class Client {
  #page;
  #ledger;
  #tries;
  #take;
  #receiving = null;
  #current = null;
  /** What the server calls the session of the connection, to restore it on the next; where it keeps any. */
  #session;
  // By the id of the acknowledgement that they asked for; the client counts on over its connections.
  #asked = new Map();

  /**
   * @param {object} settings the command `connect`
   * @param {import("./policies.js").Policy} policy
   * @param {import("./ledger.js").Ledger} ledger
   * @param {{count: number}} tries to connect, over all clients
   */
  constructor(settings, policy, ledger, tries) {
    const ackTimeoutMs = settings.ack_timeout_seconds * 1000;
    // The client takes a delay of 0 for none given.
    const [first, last] = settings.reconnect_delay_seconds.map((seconds) => Math.max(1, seconds * 1000));
    this.socket = io(`http://127.0.0.1:${settings.port}${settings.namespace}`, {
      path: settings.path,
      transports: settings.transports,
      reconnectionDelay: first,
      reconnectionDelayMax: last,
      randomizationFactor: 0,
      timeout: CONNECT_TIMEOUT_MS,
      forceNew: true,
      autoConnect: false,
      ...policy.options(ackTimeoutMs),
    });
    this.#ledger = ledger;
    this.#ledger.onTimedOut = (attempt) => this.#unanswered(attempt, policy.patience);
    this.#tries = tries;
    this.socket.io.on("reconnect_attempt", () => this.#begin());
    this.socket.io.on("error", (error) => (this.#current.failure = reasonOf(error)));
    this.socket.on("disconnect", (reason) => this.#end(this.#current, reason));
    this.#page = { socket: this.socket, ledger, event: settings.event, ackTimeoutMs, seed: settings.seed, alive: true };
    this.#take = policy.start(this.#page);
  }

  /** Have a message sent. */
  take(message) {
    this.#take(message);
  }

  /** Connect, or come back; nothing happens while it is at it. */
  connect(receiving) {
    if (this.socket.active) {
      return;
    }
    if (receiving !== this.#receiving) {
      listen(this.socket, receiving);
      this.#receiving = receiving;
    }
    this.#begin();
    this.socket.connect();
  }

  /** Close the connection, as a user does, and stay away. */
  disconnect() {
    this.socket.disconnect();
    if (this.#current !== null) {
      this.#end(this.#current, "io client disconnect");
    }
  }

  /** End as a page does that is left: nothing is said to the server, and nothing happens any more. */
  vanish() {
    this.#page.alive = false;
    this.socket.io.reconnection(false);
    this.socket.offAny().off();
    if (this.#current !== null) {
      this.#end(this.#current, "the page was reloaded");
    }
    wire.destroyAll();
  }

  /** One more try had no answer: what an application does about that that does not want to wait for the heartbeat. */
  #unanswered({ connection }, patience) {
    const current = this.#current;
    if (current?.number !== connection || ++current.unanswered !== patience) {
      return;
    }
    // Later: the client may be about to send the next try.
    setImmediate(() => {
      if (!current.ended) {
        this.disconnect();
        this.connect(this.#receiving);
      }
    });
  }

  /** Another try to connect: number it, and watch its engine, which is made before anything else happens. */
  #begin() {
    if (this.#current !== null) {
      this.#end(this.#current, "another connection began");
    }
    const connection = new wire.Connection(++this.#tries.count);
    this.#current = connection;
    process.nextTick(() => this.#watch(this.socket.io.engine, connection));
  }

  #watch(engine, connection) {
    connection.engine = engine;
    engine.on("handshake", ({ sid }) => connection.identify(sid));
    engine.on("upgrade", () => connection.changed());
    engine.on("packetCreate", decoded((packet) => this.#leaves(packet, connection)));
    engine.on("packet", decoded((packet) => this.#arrives(packet, connection)));
    // Later: the socket tells the better reason, if there is one, in this same tick.
    engine.on("close", (reason) => process.nextTick(() => this.#end(connection, reason)));
  }

  #leaves({ type, nsp, id, data }, connection) {
    if (type !== PacketType.EVENT || nsp !== this.socket.nsp || data[0] !== this.#page.event) {
      return;
    }
    const [, content, offset] = data;
    const message = this.#ledger.find(content, offset);
    if (message !== undefined) {
      const attempt = this.#ledger.begin(message, offset, connection.number, id !== undefined);
      this.#asked.set(id, attempt);
    }
  }

  #arrives({ type, nsp, id, data }, connection) {
    connection.changed();
    if (nsp !== this.socket.nsp) {
      return;
    }
    if (type === PacketType.CONNECT && data?.sid && !connection.ended) {
      connection.usable = true;
      const recovered = data.pid !== undefined && data.pid === this.#session;
      this.#session = data.pid;
      tell({ event: "connected", connection: connection.number, recovered });
      connection.changed();
    } else if (type === PacketType.CONNECT_ERROR) {
      connection.failure = `${data?.message ?? data}`;
    } else if (type === PacketType.ACK && this.#asked.has(id)) {
      this.#ledger.acknowledged(this.#asked.get(id));
    }
  }

  #end(connection, reason) {
    if (connection.ended) {
      return;
    }
    connection.ended = true;
    if (connection.usable) {
      tell({ event: "disconnected", connection: connection.number, reason });
      this.#ledger.lost(connection.number, reason);
    } else {
      tell({ event: "connectfailed", connection: connection.number, reason: text(connection.failure ?? reason) });
    }
  }
}

/** A listener to an engine's packets that calls `each` with the Socket.IO packets in them. */
function decoded(each) {
  const decoder = new Decoder();
  decoder.on("decoded", each);
  return ({ type, data }) => {
    if (type !== "message") {
      return;
    }
    try {
      decoder.add(data);
    } catch {
      // The client finds the same, and closes the connection with a "parse error".
    }
  };
}

/** The system's reason in an engine's error, where there is one. */
function reasonOf(error) {
  const { description, context } = error;
  const system = description?.error ?? (context?.statusText instanceof Error ? context.statusText : undefined);
  if (system) {
    // Node wraps the errors of several addresses.
    return system.message || system.errors?.[0]?.message || system.code || `${system}`;
  }
  const status = typeof description === "number" && description > 0 ? `: HTTP status ${description}` : "";
  return `${error.message}${status}`;
}

module.exports = { Client };
