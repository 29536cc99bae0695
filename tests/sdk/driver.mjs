// The published JavaScript client, driven by JSON lines: one command in, one answer out.
//
//   in    {"id": 7, "op": "publish", "client": "a", "channel": "room", "messages": [{"name": "n", "data": {"text": "x"}}]}
//   out   {"id": 7, "value": {"serials": ["..."]}}   or   {"id": 7, "error": {"code": 40160, "statusCode": 401, "message": "..."}}
//
// Payloads are tagged, so that bytes, text and objects can be told apart: {"text"}, {"bytes": base64}, {"json"}.
// driver.py speaks the same commands for the Python client.
import readline from 'node:readline';
import Ably from 'ably';
import { LiveObjects } from 'ably/liveobjects';
import Push from 'ably/push';
import { asks } from './asking.mjs';

const clients = new Map(); // name -> { realtime, states, logs, floods }
const POLL_MS = 5;

const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function until(condition, seconds, what) {
  const deadline = Date.now() + seconds * 1000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`${what()} after ${seconds} s`);
    await sleep(POLL_MS);
  }
}

function untag(data) {
  if (data === undefined || data === null) return data;
  if ('bytes' in data) return Buffer.from(data.bytes, 'base64');
  return 'text' in data ? data.text : data.json;
}

function tag(data) {
  if (data === undefined) return undefined;
  if (Buffer.isBuffer(data) || data instanceof ArrayBuffer || ArrayBuffer.isView(data)) {
    return { bytes: Buffer.from(data).toString('base64') };
  }
  return typeof data === 'string' ? { text: data } : { json: data };
}

const error = (reason) =>
  reason ? { code: reason.code, statusCode: reason.statusCode, message: String(reason.message) } : undefined;

function shown(message) {
  const { id, name, clientId, connectionId, timestamp, serial, action, encoding, extras, version } = message;
  return {
    kind: 'message', id, name, clientId, connectionId, timestamp, serial, action, extras,
    encoding: encoding || undefined, data: tag(message.data),
    version: version && { serial: version.serial, timestamp: version.timestamp },
  };
}

// {"undefined": true}, anywhere in extras, stands for what JSON has no word for.
function revived(value) {
  if (value === null || typeof value !== 'object') return value;
  if (value.undefined === true) return undefined;
  if (Array.isArray(value)) return value.map(revived);
  return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, revived(inner)]));
}

function outgoing(message) {
  const { data, extras, ...rest } = message;
  const made = extras === undefined ? rest : { ...rest, extras: revived(extras) };
  return 'data' in message ? { ...made, data: untag(data) } : made;
}

// What an application's callback would make of what its own server has told it.
const fetched = (url) => async (_params, done) => {
  try {
    const response = await fetch(url);
    const json = response.headers.get('content-type') === 'application/json';
    done(null, json ? await response.json() : await response.text());
  } catch (reason) {
    done(String(reason), null);
  }
};

function options({
  port, binary, key, token, echo, clientId, recover, transportParams, authUrl, authCallback, tls = false, plugins = false,
}) {
  const made = {
    endpoint: '127.0.0.1', port, tlsPort: port, tls, useBinaryProtocol: binary, fallbackHosts: [],
    disableConnectivityCheck: true, autoConnect: false, disconnectedRetryTimeout: 300, logLevel: 0,
  };
  const own = authUrl || authCallback ? undefined : key;
  for (const [name, value] of Object.entries({ key: own, token, clientId, recover, transportParams, authUrl })) {
    if (value !== undefined && value !== null) made[name] = value;
  }
  if (authCallback) made.authCallback = fetched(authCallback);
  if (echo === false) made.echoMessages = false;
  if (plugins) made.plugins = { LiveObjects, Push };
  return made;
}

const of = ({ client }) => clients.get(client);

function channelOf(command) {
  const { realtime, logs } = of(command);
  const wanted = {};
  if (command.params) wanted.params = command.params;
  if (command.modes) wanted.modes = command.modes;
  const known = logs.has(command.channel);
  const channel = known ? realtime.channels.get(command.channel) : realtime.channels.get(command.channel, wanted);
  if (!known) {
    const log = [];
    logs.set(command.channel, log);
    channel.on((change) => {
      log.push({
        kind: 'state', state: change.current, resumed: change.resumed, backlog: change.hasBacklog,
        error: error(change.reason), position: channel.properties.channelSerial || undefined,
      });
    });
  }
  return channel;
}

function connection({ realtime, states }) {
  const { state, id, key, errorReason } = realtime.connection;
  return {
    state, id, key, error: error(errorReason), clientId: realtime.auth.clientId, states,
    recoveryKey: realtime.connection.createRecoveryKey() ?? undefined,
  };
}

const restOf = (command) => new Ably.Rest(options(command.options));

async function paged(page, show) {
  const items = [];
  let pages = 0;
  while (page) {
    pages += 1;
    items.push(...page.items.map(show));
    page = page.hasNext() ? await page.next() : null;
  }
  return { items, pages };
}

const operations = {
  async new(command) {
    const realtime = new Ably.Realtime(options(command.options));
    const made = { realtime, options: command.options, states: [], logs: new Map(), floods: new Map() };
    realtime.connection.on((change) => made.states.push({ state: change.current, error: error(change.reason) }));
    clients.set(command.client, made);
  },

  // Returns once the connection is in one of the states.
  async connect(command) {
    const made = of(command);
    made.realtime.connect();
    return operations.wait({ ...command, states: ['connected', 'failed'] });
  },

  async wait(command) {
    const made = of(command);
    const { states, seconds = 20 } = command;
    await until(() => states.includes(made.realtime.connection.state), seconds, () => `${made.realtime.connection.state}`);
    return connection(made);
  },

  async connection(command) {
    return connection(of(command));
  },

  async ping(command) {
    return { milliseconds: await of(command).realtime.connection.ping() };
  },

  async authorize(command) {
    await of(command).realtime.auth.authorize();
    return connection(of(command));
  },

  async attach(command) {
    const change = await channelOf(command).attach();
    const channel = channelOf(command);
    return {
      resumed: change?.resumed, backlog: change?.hasBacklog, params: channel.params, modes: channel.modes,
      position: channel.properties.channelSerial,
    };
  },

  // The channel stays attached meanwhile.
  async options(command) {
    await channelOf(command).setOptions({ params: command.params });
  },

  async detach(command) {
    await channelOf(command).detach();
  },

  // Everything that comes is kept in the channel's log, in its order, beside the changes of the channel's state.
  async subscribe(command) {
    const channel = channelOf(command);
    const log = of(command).logs.get(command.channel);
    await channel.subscribe((message) => log.push(shown(message)));
  },

  async log(command) {
    const log = of(command).logs.get(command.channel);
    const { count = 0, last, seconds = 20 } = command;
    const messages = () => log.filter((event) => event.kind === 'message');
    const there = () => (last === undefined ? messages().length >= count : messages().at(-1)?.name === last);
    await until(there, seconds, () => `only ${messages().length} messages, the last is ${messages().at(-1)?.name}`);
    return log;
  },

  async publish(command) {
    const messages = command.messages.map(outgoing);
    const channel = channelOf(command);
    return channel.publish(messages.length === 1 ? messages[0] : messages);
  },

  // Publishes in the background, many at once; `flooded` tells how it went.
  async flood(command) {
    const { count, prefix, pause = 0, every = 20 } = command;
    const channel = channelOf(command);
    const results = [];
    const send = async () => {
      for (let number = 0; number < count; number++) {
        const name = `${prefix}/${String(number).padStart(6, '0')}`;
        const result = channel.publish({ name, data: name }).then(
          (done) => ({ name, serial: done.serials[0] }),
          (reason) => ({ name, error: error(reason) }),
        );
        results.push(result);
        if (number % every === every - 1) await (pause ? sleep(pause) : result);
      }
      return Promise.all(results);
    };
    of(command).floods.set(prefix, send());
  },

  async flooded(command) {
    return of(command).floods.get(command.prefix);
  },

  async history(command) {
    return paged(await channelOf(command).history(command.query || {}), shown);
  },

  // By a client of the REST interface alone; it holds no connection, and is made for each command.
  async rest_publish(command) {
    const messages = command.messages.map(outgoing);
    const channel = restOf(command).channels.get(command.channel);
    if (command.form === 'name and data') return channel.publish(messages[0].name, messages[0].data);
    const several = command.form === 'array' || messages.length !== 1;
    return channel.publish(several ? messages : messages[0], command.params);
  },

  async rest_history(command) {
    return paged(await restOf(command).channels.get(command.channel).history(command.query), shown);
  },

  async rest_stats(command) {
    return paged(await restOf(command).stats(command.query), ({ intervalId, unit, entries }) => ({ intervalId, unit, entries }));
  },

  async rest_status(command) {
    const { channelId, status } = await restOf(command).channels.get(command.channel).status();
    return { channelId, isActive: status.isActive, metrics: status.occupancy.metrics };
  },

  async rest_batch(command) {
    return restOf(command).batchPublish(command.specs);
  },

  async speaks(command) {
    return command.of in operations;
  },

  async rest_time(command) {
    return restOf(command).time();
  },

  async rest_token(command) {
    return restOf(command).auth.requestToken(command.wanted);
  },

  async rest_request(command) {
    const { method, path, params, body } = command;
    const page = await restOf(command).request(method, path, 3, params ?? null, body ?? null, null);
    const { statusCode, success, errorCode, errorMessage } = page;
    return { status: statusCode, success, errorCode, errorMessage, ...(await paged(page, (item) => item)) };
  },

  // For what the server has not: what becomes of it; a list is told by how many there are.
  async ask(command) {
    const { realtime, options: given } = of(command);
    const { channel: name } = command;
    const [rest, own] = [new Ably.Rest(options(given)), options(given)];
    const get = (wanted) => realtime.channels.get(name, wanted);
    const got = await asks[command.what]({ realtime, rest, name, get, options: own, stored: rest.channels.get(name) });
    return { found: Array.isArray(got) ? got.length : null };
  },

  async close(command) {
    const made = of(command);
    made.realtime.close();
    await until(() => ['closed', 'failed'].includes(made.realtime.connection.state), 15, () => 'not closed');
    clients.delete(command.client);
  },
};

// A bug of the client or of the server that surfaces as a rejection nobody waits for is told, not swallowed.
process.on('unhandledRejection', (reason) => {
  process.stderr.write(`unhandled rejection: ${reason?.stack || reason}\n`);
});

readline.createInterface({ input: process.stdin }).on('line', async (line) => {
  const command = JSON.parse(line);
  let answer;
  try {
    answer = { id: command.id, value: (await operations[command.op](command)) ?? null };
  } catch (reason) {
    answer = { id: command.id, error: error(reason) };
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`);
}).on('close', () => process.exit(0));
