'use strict';

// A1: four cuts within one message spend all tries of `retries: 3`; it is dropped, and the next one is stored.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  const server = await bench.server();
  const link = await bench.link(server);
  // 4800 characters; a handshake and a short message are shorter than the 2000 bytes after which the link is cut.
  const long = '2'.repeat(4800);

  // The sender, as the tutorial's page has it, with timers of a tenth of their defaults.
  const options = { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 };
  const alice = io(link.url, { ...options, reconnectionDelay: 100 });
  let counter = 0;
  const send = (content) => alice.emit('chat message', content, `${alice.id}-${counter++}`);

  // Looking on.
  let sends = 0;
  let cuts = 0;
  alice.onAnyOutgoing((_event, content) => {
    if (content === long) say(`message 2, try ${++sends}`);
    else say(`message ${content} is sent`);
  });
  alice.on('disconnect', (reason) => say(`cut ${++cuts}: ${reason}`));

  await until(() => alice.connected, 'the connection');
  send('1');
  await until(async () => (await bench.stored()).includes('1'), 'message 1');
  await link.add('limit_data', 'upstream', { bytes: 2000 });
  send(long);
  await until(() => cuts === 4, 'four cuts', 15);
  await link.remove('limit_data', 'upstream');
  await until(() => alice.connected, 'the connection');
  send('3');
  await until(async () => (await bench.stored()).includes('3'), 'message 3', 10);

  const stored = await bench.stored();
  return [stored.join() === '1,3', `sent 1, 2, 3 (2 in ${sends} tries); stored ${stored.join(', ')}`];
}

main(schedule);
