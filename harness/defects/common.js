'use strict';

// What the reproductions share: processes that never outlive them, Toxiproxy's HTTP API, and a look at the rows.
//
// Each reproduction is a script of its own; it needs this file, `server.js`, `switches.js`, the packages of
// `package.json`, and some of them the program `toxiproxy-server` (2.12).

const { spawn, spawnSync } = require('node:child_process');
const { once } = require('node:events');
const { existsSync, mkdtempSync } = require('node:fs');
const { createServer } = require('node:net');
const { tmpdir } = require('node:os');
const path = require('node:path');
const { setTimeout: sleep } = require('node:timers/promises');
const { parseArgs } = require('node:util');
const { open } = require('sqlite');
const sqlite3 = require('sqlite3');

// Kills processes and removes a folder when its standard input ends: whatever became of the script.
const JANITOR = `trap '' INT TERM HUP; while read -r pid; do pids="$pids $pid"; done; kill -9 $pids; rm -rf "$0"`;

// Another process, as SQLite's locks do not keep out one's own.
const LOCKER = `
  const database = new (require('sqlite3').Database)(process.argv[1]);
  database.exec('BEGIN IMMEDIATE', (error) => console.log(error ? error.message : 'locked'));
  process.stdin.once('data', () => database.exec('ROLLBACK', () => process.exit()));`;

/** The schedule could not be carried out, so nothing can be said about the defect. */
class CannotTell extends Error {}

let isOver = false;

/** Prints an observation with the seconds since the beginning, until all is over. */
function say(text) {
  if (!isOver) console.log(`${(performance.now() / 1000).toFixed(2).padStart(6)}  ${text}`);
}

/** Waits until something is true, and throws when it is not within these seconds. */
async function until(isTrue, what, seconds = 5) {
  const deadline = performance.now() + seconds * 1000;
  while (!(await isTrue())) {
    if (performance.now() > deadline) throw new CannotTell(`waited ${seconds} s in vain for ${what}`);
    await sleep(10);
  }
}

async function freePort() {
  const probe = createServer().listen(0, '127.0.0.1');
  await once(probe, 'listening');
  const { port } = probe.address();
  probe.close();
  await once(probe, 'close');
  return port;
}

/** Where a reproduction takes place: a folder of its own, and processes that end with it. */
class Bench {
  #toxiproxy;
  #processes = [];
  #janitor;

  constructor(toxiproxy, inMemory) {
    this.#toxiproxy = toxiproxy;
    const parent = inMemory && existsSync('/dev/shm') ? '/dev/shm' : tmpdir();
    this.folder = mkdtempSync(path.join(parent, 'reproduce-'));
    this.database = path.join(this.folder, 'chat.db');
    const stdio = ['pipe', 'ignore', 'ignore'];
    this.#janitor = spawn('sh', ['-c', JANITOR, this.folder], { stdio, detached: true });
  }

  /** Kills what was started, and removes the folder. */
  async close() {
    this.#janitor.stdin.end();
    await Promise.all([this.#janitor, ...this.#processes].map(({ ended }) => ended ?? once(this.#janitor, 'exit')));
  }

  /** Starts a program; it has `ended` (a promise), and what it has `printed`. */
  start(program, args, env = {}) {
    const child = spawn(program, args, { cwd: __dirname, env: { ...process.env, ...env }, detached: true });
    child.printed = '';
    child.ended = new Promise((resolve) => {
      child.on('error', (error) => resolve((child.printed += error.message)));
      child.on('exit', (code, signal) => resolve((child.ending = signal ?? `exit status ${code}`)));
    });
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (child.printed += data));
    child.stdin.on('error', () => {});
    if (child.pid) this.#janitor.stdin.write(`${child.pid}\n`);
    this.#processes.push(child);
    return child;
  }

  /** Starts the chat server, with timers of a tenth of their defaults; it has a `url`. */
  async server({ args = [], env = {}, port = 0 } = {}) {
    const options = ['--port', port, '--database', this.database, '--unit-ms', 100, ...args];
    const server = this.start(process.execPath, ['server.js', ...options.map(String)], env);
    await this.#printed(server, /listening on (\S+)/);
    [, server.url] = /listening on (\S+)/.exec(server.printed);
    server.port = Number(new URL(server.url).port);
    return server;
  }

  async #printed(child, pattern) {
    const ended = () => child.ending !== undefined || child.pid === undefined;
    await until(() => pattern.test(child.printed) || ended(), `"${child.spawnargs.join(' ')}"`, 10);
    if (pattern.test(child.printed)) return;
    throw new CannotTell(`${child.spawnfile}: ${child.printed} ${child.ending ?? ''}`);
  }

  /** Starts Toxiproxy, with one proxy that leads to a server. */
  async link(server) {
    const port = await freePort();
    const child = this.start(this.#toxiproxy, ['-host', '127.0.0.1', '-port', String(port)]);
    await this.#printed(child, /Starting Toxiproxy HTTP server/i);
    const link = new Link(`http://127.0.0.1:${port}/proxies`);
    await until(() => link.isThere(), 'the API of Toxiproxy');
    return link.create(server.port);
  }

  /** Locks the database against writers until it is released. */
  async lock() {
    const locker = this.start(process.execPath, ['-e', LOCKER, this.database]);
    await this.#printed(locker, /locked\n/);
    return { release: () => (locker.stdin.write('\n'), locker.ended) };
  }

  /** Limits the size of every file that a server may write to, as a full disk does; returns what undoes that. */
  fillDisk(server) {
    const prlimit = (...args) => {
      const { status, stdout, stderr, error } = spawnSync('prlimit', [`--pid=${server.pid}`, ...args], {
        encoding: 'utf8',
      });
      if (status !== 0) throw new CannotTell(`prlimit (of util-linux): ${error?.message ?? stderr}`);
      return stdout.trim();
    };
    const limit = prlimit('--fsize', '--output', 'SOFT', '--noheadings');
    prlimit('--fsize=0:');
    return () => prlimit(`--fsize=${limit}:`);
  }

  /** The rows, in the order of their ids. */
  async rows() {
    const db = await open({ filename: this.database, mode: sqlite3.OPEN_READONLY, driver: sqlite3.Database });
    try {
      return await db.all('SELECT id, client_offset, content FROM messages ORDER BY id');
    } finally {
      await db.close();
    }
  }

  /** The contents of the rows, shortened. */
  async stored() {
    return (await this.rows()).map(({ content }) => content.slice(0, 20).trim());
  }
}

/** One proxy on a Toxiproxy server. */
class Link {
  constructor(api) {
    this.api = api;
  }

  isThere() {
    return this.#request('GET', '').then(() => true, () => false);
  }

  async create(port) {
    const addresses = { listen: '127.0.0.1:0', upstream: `127.0.0.1:${port}` };
    const { listen } = await this.#request('POST', '', { name: 'link', enabled: true, ...addresses });
    this.url = `http://${listen}`;
    // Or it would be another port each time.
    await this.#request('POST', '/link', { listen });
    return this;
  }

  /** Adds a toxic, also to the connections that are open. */
  add(type, stream, attributes) {
    const name = `${type}_${stream}`;
    return this.#request('POST', '/link/toxics', { name, type, stream, toxicity: 1, attributes });
  }

  remove(type, stream) {
    return this.#request('DELETE', `/link/toxics/${type}_${stream}`);
  }

  /** Accepts connections, or closes those that are open and refuses others. */
  enable(enabled) {
    return this.#request('POST', '/link', { enabled });
  }

  async #request(method, where, body) {
    const signal = AbortSignal.timeout(8000);
    const response = await fetch(this.api + where, { method, body: body && JSON.stringify(body), signal });
    const text = await response.text();
    if (!response.ok) throw new CannotTell(`Toxiproxy said ${response.status} to ${method} ${where}: ${text}`);
    return text ? JSON.parse(text) : undefined;
  }
}

/**
 * Carries out a schedule and exits: 0 when it showed what it is to show, 1 when not.
 *
 * @param {(bench: Bench) => Promise<[boolean, string]>} schedule whether it did, and what was seen
 * @param {object} options
 * @param {number} options.seconds it never takes longer
 * @param {[string, string]} options.words what it says at the end
 * @param {boolean} options.inMemory whether the database is to be in memory, where the system has files there
 */
async function main(schedule, { seconds = 30, words = ['reproduced', 'not reproduced'], inMemory = false } = {}) {
  const { values } = parseArgs({ options: { toxiproxy: { type: 'string', default: 'toxiproxy-server' } } });
  const bench = new Bench(values.toxiproxy, inMemory);
  const finish = async (shown, seen) => {
    isOver = true;
    await bench.close();
    console.log(`${words[shown ? 0 : 1]}: ${seen}`);
    process.exit(shown ? 0 : 1);
  };
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.once(signal, () => finish(false, `ended by ${signal}`));
  process.once('uncaughtException', (error) => finish(false, `cannot tell: ${error.stack}`));
  const late = sleep(seconds * 1000).then(() => Promise.reject(new CannotTell(`not over after ${seconds} s`)));
  try {
    await finish(...(await Promise.race([schedule(bench), late])));
  } catch (error) {
    await finish(false, `cannot tell: ${error instanceof CannotTell ? error.message : error.stack}`);
  }
}

module.exports = { main, say, sleep, until };
