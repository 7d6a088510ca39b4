/** What is not settled, in a file that outlives the program and the page. */

"use strict";

const fs = require("node:fs");

/** Posts and settlements, a JSON object a line, in the order in which they happened. */
class Outbox {
  #file;

  /** @param {string} path made when missing; what follows its last newline was cut by a kill and never emitted */
  constructor(path) {
    this.#file = fs.openSync(path, "a+");
    const whole = fs.readFileSync(path);
    const end = whole.lastIndexOf(10) + 1;
    fs.ftruncateSync(this.#file, end);
    const left = new Map();
    for (const line of whole.subarray(0, end).toString().split("\n").filter(Boolean)) {
      const entry = JSON.parse(line);
      if (entry.command === "post") {
        left.set(entry.message, entry);
      } else {
        left.delete(entry.message);
      }
    }
    this.unsettled = [...left.values()];
  }

  /** Keep a message; once this returns, it is on disk. */
  post(message, content, offset) {
    this.#keep({ command: "post", message, content, offset });
  }

  /** Keep that a message is done with. */
  settled(message) {
    this.#keep({ command: "settled", message });
  }

  /** Give the file back; it stays. */
  close() {
    fs.closeSync(this.#file);
  }

  #keep(entry) {
    // A write to a file is whole, but for a full disk: then the rest fails.
    let left = Buffer.from(JSON.stringify(entry) + "\n");
    while (left.length > 0) {
      left = left.subarray(fs.writeSync(this.#file, left));
    }
    fs.fsyncSync(this.#file);
  }
}

module.exports = { Outbox };
