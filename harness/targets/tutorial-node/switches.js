'use strict';

// What a test may switch: options on the command line; delay, crash and error points in the environment.

const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');

const DELAY = /^(before-insert|before-replay|after-insert):([1-9]\d{0,8}):(\d{1,8})$/;
const AFTER_INSERT = /^after-insert:([1-9]\d{0,8})$/;

class UsageError extends Error {}

/**
 * Reads the command line and the environment; ends the process with status 2 and one line when something is wrong.
 *
 * @param {string[]} switches the names of the options without a value that this server has
 * @returns {{options: object, points: Points}} the options by name, and where to delay or to crash
 */
function readSwitches(switches) {
  try {
    return { options: readOptions(switches), points: new Points(process.env) };
  } catch (error) {
    if (!(error instanceof UsageError)) throw error;
    console.error(error.message);
    process.exit(2);
  }
}

function readOptions(switches) {
  const flags = switches.map((name) => [name, { type: 'boolean', default: false }]);
  const values = parse({
    host: { type: 'string', default: '127.0.0.1' },
    port: { type: 'string' },
    database: { type: 'string' },
    'unit-ms': { type: 'string', default: '1000' },
    'max-http-buffer-size': { type: 'string' },
    ...Object.fromEntries(flags),
  });
  if (!values.database) throw new UsageError('--database is missing: an SQLite file, created when it is not there');
  const bytes = values['max-http-buffer-size'];
  return {
    ...values,
    host: values.host,
    port: number('--port', values.port, 0, 65535),
    'unit-ms': number('--unit-ms', values['unit-ms'], 1, 1e6),
    'max-http-buffer-size': bytes === undefined ? undefined : number('--max-http-buffer-size', bytes, 1, 1e9),
  };
}

function parse(options) {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    throw new UsageError(error.message.split('\n')[0]);
  }
}

function number(name, text, least, most) {
  if (!/^\d{1,10}$/.test(text ?? '') || Number(text) < least || Number(text) > most) {
    throw new UsageError(`${name} is ${text ?? 'missing'}: expected a whole number from ${least} to ${most}`);
  }
  return Number(text);
}

/**
 * The Engine.IO timers of a server, scaled together: one unit of 1000 ms gives the library's defaults.
 *
 * @param {number} unit milliseconds
 */
function timers(unit) {
  return { pingInterval: 25 * unit, pingTimeout: 20 * unit, upgradeTimeout: 10 * unit, connectTimeout: 45 * unit };
}

/** Where this process delays one message or connection, kills itself or takes an error. Without a setting, nowhere. */
class Points {
  #delays = new Map();
  #crash;
  #error;
  #offsets = new Map();
  #connections = 0;
  #stored = 0;

  /** @param {{CHAT_DELAY?: string, CHAT_CRASH?: string, CHAT_ERROR?: string}} settings several delays have commas */
  constructor({ CHAT_DELAY: delays, CHAT_CRASH: crash, CHAT_ERROR: error }) {
    for (const delay of delays?.split(',') ?? []) {
      const [, point, nth, milliseconds] = match('CHAT_DELAY', delay, DELAY, 'POINT:MESSAGE:MILLISECONDS');
      this.#delays.set(point, { nth: Number(nth), milliseconds: Number(milliseconds) });
    }
    if (crash) this.#crash = Number(match('CHAT_CRASH', crash, AFTER_INSERT, 'after-insert:N')[1]);
    if (error) this.#error = Number(match('CHAT_ERROR', error, AFTER_INSERT, 'after-insert:N')[1]);
  }

  /**
   * To be awaited before and after a message is inserted. All attempts of a message are delayed alike, so they are
   * known by their client offset, and the n-th message is the n-th offset that was not seen before.
   *
   * @param {'before-insert'|'after-insert'} point
   * @param {unknown} offset of the message
   */
  message(point, offset) {
    if (!this.#delays.has(point)) return undefined;
    if (!this.#offsets.has(offset)) this.#offsets.set(offset, this.#offsets.size + 1);
    return this.#wait(point, this.#offsets.get(offset));
  }

  /** To be called for every connection, and awaited between reading its rows and sending them. */
  replay() {
    this.#connections += 1;
    return this.#wait('before-replay', this.#connections);
  }

  /**
   * To be called right after every INSERT that stored something.
   *
   * @throws as a database does that has stored a row and cannot say so: its unlock failed, or its connection was cut
   */
  stored() {
    this.#stored += 1;
    if (this.#stored === this.#crash) process.kill(process.pid, 'SIGKILL');
    if (this.#stored === this.#error) throw Object.assign(new Error('SQLITE_IOERR: disk I/O error'), { errno: 10 });
  }

  #wait(point, nth) {
    const delay = this.#delays.get(point);
    return nth === delay?.nth ? sleep(delay.milliseconds) : undefined;
  }
}

function match(name, text, pattern, form) {
  const found = pattern.exec(text);
  if (!found) throw new UsageError(`${name}=${text} is not ${form}`);
  return found;
}

module.exports = { Points, readSwitches, timers };
