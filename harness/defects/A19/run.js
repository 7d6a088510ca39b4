'use strict';

// A19: a database reports an error of an INSERT that it has stored; the message is acknowledged, and never broadcast.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  // The second INSERT is stored, and throws as if it had failed.
  const server = await bench.server({ env: { CHAT_ERROR: 'after-insert:2' } });

  // Two pages, as the tutorial has them. The callback is only there to see what the sender is told.
  const options = { transports: ['websocket'], ackTimeout: 1000, retries: 3, reconnectionDelay: 100 };
  const alice = io(server.url, { ...options, auth: { serverOffset: 0 } });
  let counter = 0;
  const acknowledged = [];
  const send = async (content) => {
    alice.emit('chat message', content, `${alice.id}-${counter++}`, (error) => error || acknowledged.push(content));
    await until(() => acknowledged.includes(content), `the acknowledgement of ${content}`);
    say(`message ${content} is acknowledged`);
  };

  await until(() => alice.connected, 'the connection of alice');
  await send('1');
  const bob = io(server.url, { ...options, auth: { serverOffset: 0 } });
  const received = [];
  bob.on('chat message', (content, serverOffset) => {
    received.push(content);
    bob.auth.serverOffset = serverOffset;
    say(`bob receives ${content}`);
  });
  await until(() => received.includes('1'), 'bob to receive 1');
  await send('2');
  await send('3');
  await until(() => received.includes('3'), 'bob to receive 3');
  bob.disconnect();
  await send('4');
  say(`bob comes back with serverOffset ${bob.auth.serverOffset}`);
  bob.connect();
  await until(() => received.includes('4'), 'bob to receive 4');

  const stored = await bench.stored();
  return [
    stored.join() === '1,2,3,4' && received.join() === '1,3,4',
    `acknowledged ${acknowledged.join(', ')}; stored ${stored.join(', ')}; bob received ${received.join(', ')}`,
  ];
}

main(schedule);
