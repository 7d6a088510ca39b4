'use strict';

// A14: a message above `maxHttpBufferSize` ends four connections and is dropped; the next one is stored.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  const server = await bench.server();
  const large = '2'.repeat(1_000_100); // the default limit is 1 MB

  // The sender, as the tutorial's page has it, with timers of a tenth of their defaults.
  const options = { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 };
  const alice = io(server.url, { ...options, reconnectionDelay: 100 });
  let counter = 0;
  const send = (content) => alice.emit('chat message', content, `${alice.id}-${counter++}`);

  // Looking on.
  let sends = 0;
  let disconnects = 0;
  alice.onAnyOutgoing((_event, content) => {
    if (content === large) say(`message 2, try ${++sends}`);
    else say(`message ${content} is sent`);
  });
  alice.on('disconnect', (reason) => say(`disconnect ${++disconnects}: ${reason}`));

  await until(() => alice.connected, 'the connection');
  send('1');
  await until(async () => (await bench.stored()).includes('1'), 'message 1');
  send(large);
  send('3');
  await until(async () => (await bench.stored()).includes('3'), 'message 3', 20);

  const stored = await bench.stored();
  return [
    sends === 4 && disconnects === 4 && stored.join() === '1,3',
    `sent 1, 2, 3 (2 in ${sends} tries, with ${disconnects} disconnects); stored ${stored.join(', ')}`,
  ];
}

main(schedule);
