'use strict';

// A8: two clients emit before they are connected; both use the offset `undefined-0`, and one message is lost.

const { io } = require('socket.io-client');
const { main, say, until } = require('./common.js');

async function schedule(bench) {
  const server = await bench.server();

  // Two senders, as the tutorial's page has them. The callback is only there to see what each is told.
  const acknowledged = [];
  const open = (name) => {
    const options = { transports: ['websocket'], auth: { serverOffset: 0 }, ackTimeout: 1000, retries: 3 };
    const socket = io(server.url, options);
    let counter = 0;
    return (content) => {
      const clientOffset = `${socket.id}-${counter++}`;
      say(`${name} sends "${content}" with the offset ${clientOffset}`);
      socket.emit('chat message', content, clientOffset, (error) => {
        if (!error) acknowledged.push(content);
        say(`"${content}" ${error ? 'failed' : 'is acknowledged'}`);
      });
    };
  };

  for (const name of ['alice', 'bob']) {
    open(name)(`of ${name}`); // at once: there is no connection yet
    await until(() => acknowledged.includes(`of ${name}`), `the acknowledgement of ${name}'s message`);
  }

  const stored = await bench.stored();
  return [
    acknowledged.length === 2 && stored.join() === 'of alice',
    `acknowledged: ${acknowledged.join(', ')}; stored: ${stored.join(', ')}`,
  ];
}

main(schedule);
