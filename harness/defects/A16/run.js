'use strict';

// A16: a handler stands still past all tries of its message; the next message is stored before it.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  // The handler of the second message waits for 4.5 s before its INSERT, at every try.
  const server = await bench.server({ env: { CHAT_DELAY: 'before-insert:2:4500' } });

  // The sender, as the tutorial's page has it, with timers of a tenth of their defaults; and with a callback.
  const options = { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 };
  const alice = io(server.url, { ...options, reconnectionDelay: 100 });
  let counter = 0;
  const told = [];
  const send = (content) =>
    alice.emit('chat message', content, `${alice.id}-${counter++}`, (error) => {
      told.push(`${content} ${error ? 'failed' : 'is delivered'}`);
      say(`the sender is told: ${told.at(-1)}${error ? ` (${error.message})` : ''}`);
    });

  await until(() => alice.connected, 'the connection');
  send('1');
  await until(() => told.length === 1, 'message 1');
  send('2');
  send('3');
  await until(async () => (await bench.stored()).includes('3'), 'message 3', 10);
  say('message 3 is stored');
  await until(async () => (await bench.stored()).includes('2'), 'message 2', 10);
  say('message 2 is stored');

  const stored = await bench.stored();
  return [
    stored.join() === '1,3,2' && told.join() === '1 is delivered,2 failed,3 is delivered',
    `sent 1, 2, 3; stored ${stored.join(', ')}; the sender was told: ${told.join(', ')}`,
  ];
}

main(schedule);
