/** The lines on standard output. */

"use strict";

const fs = require("node:fs");

const nap = new Int32Array(new SharedArrayBuffer(4));

/**
 * Tell an event, at once and whole: a driver that is killed has told what it knew.
 *
 * @param {object} event as PROTOCOL.md has it
 */
function tell(event) {
  let left = Buffer.from(JSON.stringify(event) + "\n");
  while (left.length > 0) {
    try {
      left = left.subarray(fs.writeSync(1, left));
    } catch (error) {
      if (error.code !== "EAGAIN") {
        process.exit(1); // nobody listens any more
      }
      Atomics.wait(nap, 0, 0, 1);
    }
  }
}

/**
 * Tell that the program cannot go on, and end it.
 *
 * @param {Error} error why
 */
function fail(error) {
  console.error(error);
  tell({ event: "error", reason: text(`${error?.message ?? error}`) });
  process.exit(1);
}

/**
 * A text that has a place in UTF-8: half a surrogate pair becomes the text of its escape.
 *
 * @param {string} value any text
 * @returns {string} the same, if it is well-formed
 */
function text(value) {
  return value.isWellFormed()
    ? value
    : value.replace(/\p{Surrogate}/gu, (half) => `\\u${half.charCodeAt(0).toString(16)}`);
}

module.exports = { tell, fail, text };
