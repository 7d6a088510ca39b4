'use strict';

// A Socket.IO chat server that stores every message exactly once and delivers all of them in one order.

const { once } = require('node:events');
const { createServer } = require('node:http');
const { setTimeout: sleep } = require('node:timers/promises');
const { Server } = require('socket.io');
const { serveOrFork } = require('./spares.js');
const { readSwitches, timers } = require('../tutorial-node/switches.js');
const { Chat, EVENT } = require('./chat.js');
const { Delivery } = require('./delivery.js');
const { complain } = require('./log.js');
const { Storage } = require('./storage.js');

// A larger message ends the connection each time it is sent, and the client would lose it in the end.
const LARGEST_MESSAGE_BYTES = 10_000_000;

// Only a slow disk or a client that does not answer takes this long.
const FINISH_WRITES_MS = 2000;
const FINISH_DELIVERY_MS = 500;
const CLOSE_MS = 200;

const SWITCHES = ['without-unique', 'without-acknowledgement', 'recovery', 'rollback-journal'];

async function main() {
  const { options, points } = readSwitches(SWITCHES);
  // A write above a limit on the size of files is then an error, as on a full disk, and not the end of the process.
  process.on('SIGXFSZ', () => {});
  const storage = openStorage(options, points);
  const http = createServer();
  const connections = track(http);
  const io = new Server(http, {
    ...timers(options['unit-ms']),
    // It needs no recovery, as the replay from the client's own offset gives all that it lacks. With it the end of the
    // connection before comes a second time, and the client has to drop what it has.
    connectionStateRecovery: options.recovery ? {} : undefined,
    maxHttpBufferSize: options['max-http-buffer-size'] ?? LARGEST_MESSAGE_BYTES,
  });
  const delivery = new Delivery(storage, (socket, { content, id }) => socket.emit(EVENT, content, id));
  const chat = new Chat(storage, delivery, points, { acknowledges: !options['without-acknowledgement'] });
  io.on('connection', (socket) => chat.connect(socket));
  const stop = stopSignal();
  await listen(http, options);
  await stop;
  http.close();
  await atMost(FINISH_WRITES_MS, chat.finish());
  delivery.look();
  await atMost(FINISH_DELIVERY_MS, delivery.settled());
  await hangUp(connections);
  process.exit(0);
}

function openStorage(options, points) {
  try {
    return new Storage(options.database, {
      unique: !options['without-unique'],
      journal: options['rollback-journal'] ? 'delete' : 'wal',
      stored: () => points.stored(),
    });
  } catch (error) {
    return fail(`cannot use the database ${options.database}: ${error.message}`);
  }
}

function track(http) {
  const connections = new Set();
  http.on('connection', (connection) => {
    connections.add(connection);
    connection.on('close', () => connections.delete(connection));
  });
  return connections;
}

function stopSignal() {
  return Promise.race(['SIGTERM', 'SIGINT'].map((signal) => once(process, signal)));
}

async function listen(http, { host, port }) {
  http.listen(port, host);
  await once(http, 'listening').catch((error) => fail(error.message));
  console.log(`listening on http://${host}:${http.address().port}`);
}

// No Socket.IO disconnect and no Engine.IO close: after those some clients do not come back, and this may be a restart.
// To end a connection sends what waits in it first.
async function hangUp(connections) {
  const closed = [...connections].map((connection) => {
    connection.end();
    return once(connection, 'close').catch(() => {});
  });
  await atMost(CLOSE_MS, Promise.all(closed));
}

function atMost(milliseconds, promise) {
  return Promise.race([promise, sleep(milliseconds)]);
}

function fail(reason) {
  complain(reason);
  process.exit(1);
}

serveOrFork(main);
