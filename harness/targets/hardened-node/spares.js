'use strict';

// Servers that have loaded all of their code and then stand still until one is wanted, since Node.js cannot fork: what
// takes long in a start, loading code, has happened before. Speaks the protocol of `server.fork`, see docs/target.md.

const { spawn } = require('node:child_process');
const { closeSync, openSync, readSync, writeSync } = require('node:fs');
const { constants, devNull } = require('node:os');
const { createInterface } = require('node:readline');

const SPARES = 2;
const STANDS_BY = 'CHAT_STANDS_BY';

/**
 * Serves; with `--fork` and nothing else it serves once for each JSON line on standard input, in a process of its own,
 * until standard input ends: `{"command": [TEXT...], "env": {NAME: TEXT}, "log": PATH, "held": BOOLEAN}`.
 *
 * @param {() => void} serve to be called when all of its code is loaded; reads the command line and the environment
 */
function serveOrFork(serve) {
  if (process.env[STANDS_BY]) {
    standBy();
    serve();
  } else if (process.argv.slice(2).join(' ') === '--fork') {
    keepSpares();
  } else {
    serve();
  }
}

function keepSpares() {
  const spares = Array.from({ length: SPARES }, spare);
  const end = () => {
    for (const unwanted of spares) unwanted.kill('SIGKILL');
    process.exit(0);
  };
  process.on('SIGTERM', end);
  createInterface({ input: process.stdin })
    .on('line', (line) => {
      const wanted = spares.shift();
      wanted.stdin.end(`${line}\n`);
      wanted.on('exit', (code, signal) => tell({ pid: wanted.pid, status: code ?? -constants.signals[signal] }));
      tell({ pid: wanted.pid });
      spares.push(spare());
    })
    .on('close', end);
}

/** Detached, so that it leads a process group of its own. */
function spare() {
  return spawn(process.execPath, process.argv.slice(1), {
    detached: true,
    env: { ...process.env, [STANDS_BY]: '1' },
    stdio: ['pipe', 'ignore', 'inherit'],
  });
}

function tell(event) {
  writeSync(1, `${JSON.stringify(event)}\n`);
}

/** Blocks until this process is wanted, and has then nothing of its parent's left; ends it when it never is. */
function standBy() {
  const line = readLine();
  if (line === '') process.exit(0);
  const { command, env, log, held } = JSON.parse(line);
  reopen(0, devNull, 'r');
  reopen(1, log, 'a');
  reopen(2, log, 'a');
  delete process.env[STANDS_BY];
  Object.assign(process.env, env);
  process.argv = [...process.argv.slice(0, 2), ...command.slice(2)];
  if (held) process.kill(process.pid, 'SIGSTOP');
}

function readLine() {
  const bytes = Buffer.alloc(65536);
  let length = 0;
  while (!bytes.subarray(0, length).includes('\n')) {
    const read = readSync(0, bytes, length, bytes.length - length);
    if (read === 0) return '';
    length += read;
  }
  return bytes.toString('utf8', 0, length);
}

/** A file that is opened gets the lowest number that is free. */
function reopen(descriptor, path, flags) {
  closeSync(descriptor);
  if (openSync(path, flags) !== descriptor) throw new Error(`descriptor ${descriptor} was not the lowest that is free`);
}

module.exports = { serveOrFork };
