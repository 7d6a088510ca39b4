'use strict';

// A13: an emit without a callback is stored, and ends the server.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  const server = await bench.server();

  // Neither `retries` nor a callback.
  const alice = io(server.url, { transports: ['websocket'], reconnection: false });
  await until(() => alice.connected, 'the connection');
  alice.emit('chat message', '1', `${alice.id}-0`);
  await until(() => server.ending !== undefined, 'the end of the server', 10);
  const why = /TypeError: .*/.exec(server.printed)?.[0];
  say(`the server ended with ${server.ending}: ${why}`);

  const stored = await bench.stored();
  return [
    server.ending === 'exit status 1' && why !== undefined && stored.join() === '1',
    `stored ${stored.join(', ')}; the server ended with ${server.ending}: ${why}`,
  ];
}

main(schedule);
