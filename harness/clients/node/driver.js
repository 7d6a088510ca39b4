#!/usr/bin/env node
/**
 * A driver with the official JavaScript client: commands in, events out, a JSON object a line. See ../PROTOCOL.md.
 *
 * driver.js   what it is told, and what that makes it do
 * client.js   one Socket.IO client, from its making to its end: its connections, and the packets on them
 * policies.js the ways of sending, as an application would write them
 * receiver.js the ways of receiving, likewise
 * ledger.js   what is told of messages and their attempts
 * outbox.js   what is not settled, in a file
 * wire.js     what is handed to the system, by its bytes
 * told.js     the lines on standard output
 */

"use strict";

const { Client } = require("./client.js");
const { Ledger } = require("./ledger.js");
const { Outbox } = require("./outbox.js");
const { policyOf } = require("./policies.js");
const { tell, fail } = require("./told.js");
const wire = require("./wire.js");

// How long the goodbye may take: the other end may not answer any more.
const GOODBYE_MS = 500;

/** What outlives a page: the numbers that are counted on, the outbox, and how to make a new client. */
class Session {
  #settings = null;
  #policy = null;
  #receiving = null;
  #outbox = null;
  #ledger = null;
  #client = null;
  #tries = { count: 0 };
  #counter = 0;

  connect(command) {
    if (this.#client === null) {
      this.#settings = command;
      this.#policy = policyOf(command.policy);
      this.#ledger = new Ledger(this.#policy, command.ack_timeout_seconds * 1000);
      this.#load();
    }
    this.#client.connect(this.#receiving);
  }

  receive(command) {
    this.#receiving = command;
  }

  post({ message: id, content, offset: given }) {
    const offset = given ?? `${this.#client.socket.id}-${this.#counter++}`;
    this.#outbox?.post(id, content, offset);
    tell({ event: "invoke", message: id, offset });
    this.#client.take(this.#ledger.post(id, content, offset));
  }

  disconnect() {
    this.#client.disconnect();
  }

  reload() {
    this.#client.vanish();
    this.#outbox?.close();
    this.#counter = 0;
    this.#load();
    this.#client.connect(this.#receiving);
  }

  stop() {
    this.#client?.disconnect();
    wire.quiet(GOODBYE_MS).then(() => process.exit(0));
  }

  /** Begin as a page does: a client, and what the outbox holds. */
  #load() {
    const path = this.#settings.outbox;
    this.#outbox = path ? new Outbox(path) : null;
    this.#ledger.onSettled = (message) => this.#outbox?.settled(message.id);
    this.#client = new Client(this.#settings, this.#policy, this.#ledger, this.#tries);
    for (const { message, content, offset } of this.#outbox?.unsettled ?? []) {
      this.#client.take(this.#ledger.post(message, content, offset));
    }
  }

  /** Do what a line says. */
  obey(line) {
    const command = JSON.parse(line);
    switch (command.command) {
      case "connect":
        return this.connect(command);
      case "receive":
        return this.receive(command);
      case "stop":
        return this.stop();
    }
    const known = { post: this.post, disconnect: this.disconnect, reload: this.reload }[command.command];
    if (known === undefined) {
      throw new Error(`there is no command ${JSON.stringify(command.command)}`);
    }
    if (this.#client === null) {
      throw new Error(`${command.command} came before connect`);
    }
    known.call(this, command);
  }
}

/** Call `each` with every whole line of standard input. Not node:readline, which also splits at U+2028. */
function lines(each) {
  let rest = [];
  process.stdin.on("data", (chunk) => {
    for (let end; (end = chunk.indexOf(10)) >= 0; chunk = chunk.subarray(end + 1)) {
      each(Buffer.concat([...rest, chunk.subarray(0, end)]).toString());
      rest = [];
    }
    rest.push(chunk);
  });
  process.stdin.on("end", () => process.exit(0));
}

process.on("uncaughtException", fail);
process.on("unhandledRejection", fail);
wire.watch();
const session = new Session();
lines((line) => session.obey(line));
