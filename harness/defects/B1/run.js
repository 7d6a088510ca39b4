'use strict';

// B1: a receiver whose recovery is cut before its end gets the messages that it missed twice.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  const server = await bench.server();
  const link = await bench.link(server);
  const long = (content) => content.repeat(4800);

  // Two pages, as the tutorial has them; only the receiver's is on the link that is cut.
  const options = { transports: ['websocket'], ackTimeout: 1000, retries: 3, reconnectionDelay: 100 };
  const alice = io(server.url, { ...options, auth: { serverOffset: 0 } });
  let counter = 0;
  const send = async (content) => {
    alice.emit('chat message', content, `${alice.id}-${counter++}`);
    await until(async () => (await bench.stored()).some((stored) => stored[0] === content[0]), content[0]);
  };

  await until(() => alice.connected, 'the connection of alice');
  await send('1');
  const bob = io(link.url, { ...options, auth: { serverOffset: 0 } });
  const received = [];
  bob.on('chat message', (content, serverOffset) => {
    received.push(content[0]);
    bob.auth.serverOffset = serverOffset;
    say(`bob receives ${content[0]}`);
  });
  bob.on('disconnect', (reason) => say(`bob is disconnected: ${reason}`));
  await until(() => received.includes('1'), 'bob to receive 1');
  await link.enable(false);
  await until(() => !bob.connected, 'bob to be disconnected');
  for (const content of ['2', '3', '4']) await send(long(content));
  say('messages 2, 3 and 4, of 4800 characters, are stored');

  // His way back is cut within the second of them.
  let cut = false;
  bob.io.once('reconnect', () => bob.io.engine.once('close', () => (cut = true)));
  await link.add('limit_data', 'downstream', { bytes: 8000 });
  await link.enable(true);
  await until(() => cut, 'a cut on the way back');
  say(`the way back is cut after 8000 bytes; bob has received ${received.join(', ')}`);
  await link.remove('limit_data', 'downstream');
  await until(() => bob.connected, 'bob to come back');
  say(`bob is back; recovered: ${bob.recovered}`);
  await send('5');
  await until(() => received.includes('5'), 'bob to receive 5');

  const stored = (await bench.stored()).map((content) => content[0]);
  return [
    stored.join() === '1,2,3,4,5' && received.join() === '1,2,2,3,4,5',
    `stored ${stored.join(', ')}; bob received ${received.join(', ')}`,
  ];
}

main(schedule);
