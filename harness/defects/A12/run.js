'use strict';

// A12: `retries` without `ackTimeout`: a callback with no argument counts as an error; four sends of one message.

const { io } = require('socket.io-client');
const { main, say } = require('./common.js');

async function schedule(bench) {
  const server = await bench.server();

  const alice = io(server.url, { transports: ['websocket'], auth: { serverOffset: 0 }, retries: 3 });
  let sends = 0;
  alice.onAnyOutgoing(() => say(`the message, try ${++sends}`));
  const told = await new Promise((resolve) => {
    // The server acknowledges as the tutorial's does: `callback()`.
    alice.once('connect', () => alice.emit('chat message', '1', `${alice.id}-0`, (...args) => resolve(args)));
  });
  say(`the callback of the sender is called with ${told.map(String)}; null would be a success`);

  const stored = await bench.stored();
  return [
    sends === 4 && stored.join() === '1' && told[0] !== null,
    `sent and acknowledged ${sends} times; stored ${stored.join(', ')}; the sender's callback got ${told.map(String)}`,
  ];
}

main(schedule);
