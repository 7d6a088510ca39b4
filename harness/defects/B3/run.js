'use strict';

// B3: a receiver that got a live message before its rows, and is cut right behind it, never gets those rows.

const { io } = require('socket.io-client');
const { main, say, sleep, until } = require('./common.js');

async function schedule(bench) {
  // No recovery; and the second client that joins is sent its rows 2 s after they were read.
  const server = await bench.server({ args: ['--without-recovery'], env: { CHAT_DELAY: 'before-replay:2:2000' } });
  const link = await bench.link(server);

  // Two pages, as the tutorial has them; only the receiver's is on the link that is cut.
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
  const bob = io(link.url, { ...options, auth: { serverOffset: 0 } });
  const received = [];
  bob.on('chat message', (content, serverOffset) => {
    received.push(content);
    bob.auth.serverOffset = serverOffset;
    say(`bob receives ${content}`);
  });
  bob.on('connect', () => say(`bob is connected, with serverOffset ${bob.auth.serverOffset}`));
  await until(() => bob.connected, 'bob to join');
  await send('3');
  await until(() => received.includes('3'), 'bob to receive 3');
  await link.enable(false);
  await until(() => !bob.connected, 'bob to be disconnected');
  say('bob is cut');
  await link.enable(true);
  await until(() => bob.connected, 'bob to come back');
  await sleep(2500); // longer than what delayed his rows
  await send('4');
  await until(() => received.includes('4'), 'bob to receive 4');

  const stored = await bench.stored();
  return [
    stored.join() === '1,2,3,4' && received.join() === '3,4',
    `stored ${stored.join(', ')}; bob received ${received.join(', ')}`,
  ];
}

main(schedule);
