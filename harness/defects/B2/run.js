'use strict';

// B2: a receiver joins while a message is stored and not yet broadcast; it comes before older ones, and twice.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  // The second message waits for 0.9 s between its INSERT and its broadcast; the second client that joins has the rows
  // read at once, and is sent them after 2 s.
  const server = await bench.server({ env: { CHAT_DELAY: 'after-insert:2:900,before-replay:2:2000' } });

  // Two pages, as the tutorial has them.
  const options = { transports: ['websocket'], ackTimeout: 1000, retries: 3, reconnectionDelay: 100 };
  const alice = io(server.url, { ...options, auth: { serverOffset: 0 } });
  let counter = 0;
  const send = async (content) => {
    alice.emit('chat message', content, `${alice.id}-${counter++}`);
    await until(async () => (await bench.stored()).includes(content), `message ${content}`);
    say(`message ${content} is stored`);
  };

  await until(() => alice.connected, 'the connection of alice');
  await send('1');
  await send('2');
  const bob = io(server.url, { ...options, auth: { serverOffset: 0 } });
  const received = [];
  bob.on('chat message', (content, serverOffset) => {
    received.push(content);
    bob.auth.serverOffset = serverOffset;
    say(`bob receives ${content}`);
  });
  bob.on('connect', () => say('bob joins'));
  await until(() => received.length === 3, 'bob to receive three messages', 10);
  await send('3');
  await until(() => received.includes('3'), 'bob to receive 3');

  const stored = await bench.stored();
  return [
    stored.join() === '1,2,3' && received.join() === '2,1,2,3',
    `stored ${stored.join(', ')}; bob received ${received.join(', ')}`,
  ];
}

main(schedule);
