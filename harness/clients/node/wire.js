/** What is handed to the system, by its bytes: every TCP connection of this program is a client's. */

"use strict";

const diagnostics = require("node:diagnostics_channel");

const { tell } = require("./told.js");

const END_OF_HEAD = Buffer.from("\r\n\r\n");
const PONG = "3";

const taps = new Map();
const bySession = new Map();
let latest = null;

/** One try to connect, with what was sent on it. */
class Connection {
  engine = null;
  usable = false;
  ended = false;
  unanswered = 0;
  failure = null;
  sent = 0;
  polls = new Set();
  sockets = new Set();
  #told = "";
  #telling = false;

  /** @param {number} number of the try */
  constructor(number) {
    this.number = number;
    latest = this;
  }

  /** Know its requests by the session id in their addresses: those of an older one can still be under way. */
  identify(session) {
    bySession.set(session, this);
  }

  /** Tell what changed, when what is being done is done: a frame is written in two pieces. */
  changed() {
    if (this.#telling) {
      return;
    }
    this.#telling = true;
    process.nextTick(() => {
      this.#telling = false;
      this.#tell();
    });
  }

  #tell() {
    if (!this.usable || this.ended) {
      return;
    }
    const websocket = this.engine.transport.name === "websocket";
    const pending = websocket || this.polls.size > 0;
    const received = [...this.sockets].reduce((sum, socket) => sum + socket.bytesRead, 0);
    const told = `${this.sent} ${received} ${pending} ${websocket}`;
    if (told !== this.#told) {
      this.#told = told;
      tell({ event: "wire", connection: this.number, sent: this.sent, received, poll_pending: pending, websocket });
    }
  }
}

/** One TCP connection: what is written to it, taken apart. */
class Tap {
  connection = null;
  #socket;
  #bytes = Buffer.alloc(0);
  #next = () => this.#request();

  constructor(socket) {
    this.#socket = socket;
    taps.set(socket, this);
    socket.once("close", () => {
      taps.delete(socket);
      this.answered();
    });
    // Connecting puts the socket's own `write` in its place, and comes right after this; the first request later.
    process.nextTick(() => this.#listen(socket));
  }

  #listen(socket) {
    const { write } = socket;
    socket.write = (chunk, encoding, done) => {
      const went = write.call(socket, chunk, encoding, done);
      const bytes = Buffer.from(chunk, typeof encoding === "string" ? encoding : undefined);
      if (socket.connecting) {
        socket.once("connect", () => this.#see(bytes)); // it waits for that, too
      } else {
        this.#see(bytes);
      }
      return went;
    };
  }

  /** The poll that was written here, if there was one, is answered. */
  answered() {
    if (this.connection?.polls.delete(this)) {
      this.connection.changed();
    }
  }

  #see(bytes) {
    this.#bytes = this.#bytes.length ? Buffer.concat([this.#bytes, bytes]) : bytes;
    for (let length; (length = this.#next()) > 0; ) {
      this.#bytes = this.#bytes.subarray(length);
    }
  }

  #count(length) {
    this.connection.sent += length;
    this.connection.changed();
  }

  /** Take a whole HTTP request; its length, or 0. */
  #request() {
    const end = this.#bytes.indexOf(END_OF_HEAD);
    if (end < 0) {
      return 0;
    }
    const head = this.#bytes.toString("latin1", 0, end);
    const begin = end + END_OF_HEAD.length;
    const length = begin + Number(/^content-length: *(\d+)/im.exec(head)?.[1] ?? 0);
    if (this.#bytes.length < length) {
      return 0;
    }
    const session = /[?&]sid=([^& ]*)/.exec(head)?.[1];
    this.connection = bySession.get(session && decodeURIComponent(session)) ?? latest;
    this.connection.sockets.add(this.#socket);
    if (/^upgrade: *websocket/im.test(head)) {
      this.#next = () => this.#frame();
    } else if (head.startsWith("POST ")) {
      if (this.#bytes.toString("latin1", begin, length) !== PONG) {
        this.#count(length);
      }
    } else if (session) {
      this.connection.polls.add(this);
      this.connection.changed();
    }
    return length;
  }

  /** Take a whole WebSocket frame of a client; its length, or 0. */
  #frame() {
    const bytes = this.#bytes;
    const short = bytes.length > 1 ? bytes[1] & 0x7f : 0;
    const mask = { 126: 4, 127: 10 }[short] ?? 2;
    if (bytes.length < mask + 4) {
      return 0;
    }
    const size = short === 126 ? bytes.readUInt16BE(2) : short === 127 ? Number(bytes.readBigUInt64BE(2)) : short;
    const length = mask + 4 + size;
    if (bytes.length < length) {
      return 0;
    }
    // Engine.IO's pong, or WebSocket's own ping and pong.
    const opcode = bytes[0] & 0x0f;
    const pong = opcode === 1 && size === 1 && String.fromCharCode(bytes[mask + 4] ^ bytes[mask]) === PONG;
    if (!pong && opcode !== 9 && opcode !== 10) {
      this.#count(length);
    }
    return length;
  }
}

/** Watch every connection from now on. */
function watch() {
  diagnostics.subscribe("net.client.socket", ({ socket }) => new Tap(socket));
  diagnostics.subscribe("http.client.response.finish", ({ request }) => taps.get(request.socket)?.answered());
}

/** End every connection, without a word. */
function destroyAll() {
  for (const socket of taps.keys()) {
    socket.destroy();
  }
}

/**
 * Wait until there is no connection any more, or for so long.
 *
 * @param {number} timeoutMs
 * @returns {Promise<void>}
 */
function quiet(timeoutMs) {
  return new Promise((resolve) => {
    const deadline = Date.now() + timeoutMs;
    const look = () => (taps.size === 0 || Date.now() > deadline ? resolve() : setTimeout(look, 5));
    setImmediate(look);
  });
}

module.exports = { Connection, watch, destroyAll, quiet };
