'use strict';

const { writeSync } = require('node:fs');

const STANDARD_ERROR = 2;

/**
 * Writes one line for people to standard error. A full disk or a closed pipe behind it must not decide what happens
 * to a message; `console.error` would end the process.
 *
 * @param {string} line
 */
function complain(line) {
  try {
    writeSync(STANDARD_ERROR, `${line}\n`);
  } catch {
    // Nobody can be told.
  }
}

module.exports = { complain };
