'use strict';

// A17: a server dies between its INSERT and its broadcast; the next one acknowledges, and there is one row.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  // The server kills itself right after its second INSERT.
  const first = await bench.server({ env: { CHAT_CRASH: 'after-insert:2' } });

  // The sender, as the tutorial's page has it, with timers of a tenth of their defaults; and with a callback.
  const options = { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 };
  const alice = io(first.url, { ...options, reconnectionDelay: 100 });
  let counter = 0;
  const told = [];
  const send = (content) =>
    alice.emit('chat message', content, `${alice.id}-${counter++}`, (error) => {
      told.push(`${content} ${error ? 'failed' : 'is delivered'}`);
      say(`the sender is told: ${told.at(-1)}`);
    });

  // Looking on.
  let sends = 0;
  alice.onAnyOutgoing((_event, content) => content === '2' && say(`message 2, try ${++sends}`));

  await until(() => alice.connected, 'the connection');
  send('1');
  await until(() => told.length === 1, 'message 1');
  send('2');
  await until(() => first.ending !== undefined, 'the end of the server', 10);
  const left = await bench.stored();
  say(`the server ended with ${first.ending}; stored ${left.join(', ')}; told ${told.length} of 2`);
  const early = told.length > 1;
  await bench.server({ port: first.port });
  await until(() => told.length === 2, 'message 2', 10);
  send('3');
  await until(() => told.length === 3, 'message 3');

  const stored = await bench.stored();
  return [
    first.ending === 'SIGKILL' && left.join() === '1,2' && !early && stored.join() === '1,2,3' && sends > 1,
    `sent 1, 2, 3 (2 in ${sends} tries); stored ${stored.join(', ')}; the sender was told: ${told.join(', ')}`,
  ];
}

main(schedule, { words: ['holds', 'does not hold'] });
