// What the JavaScript client has calls for and the server has not: each as an application would ask for it.
// asking.py has the same, by the same names, for the Python client. Each gets a channel that nobody has used.
import Ably from 'ably';

export const SERIAL = '001700000000000-00000@none:000'; // of no message that there is
const REACTION = { type: 'reaction:distinct.v1', name: 'x' };
const PUSHED = { name: 'n', extras: { push: { notification: { title: 't' } } } };
const DEVICE = { id: 'd', platform: 'browser', formFactor: 'desktop', push: { recipient: { transportType: 'fcm' } } };
const changed = { serial: SERIAL, data: 'x' };
const listener = () => {};

async function inBatch(client, name) {
  const { results } = await client.batchPublish({ channels: [name], messages: [PUSHED] });
  if (results[0].error) throw results[0].error;
}

// With options of its own, closed again afterwards.
async function apart(options, act) {
  const client = new Ably.Realtime(options);
  try {
    return await act(client);
  } finally {
    client.close();
  }
}

async function connected(client) {
  client.connect();
  const change = await new Promise((resolve) => client.connection.once(['connected', 'failed', 'disconnected'], resolve));
  if (change.current !== 'connected') throw change.reason;
}

const attach = (options) => ({ get }) => get(options).attach();
const withMode = (mode) => attach({ modes: [mode] });
const withParam = (name, value) => attach({ params: { [name]: value } });

// get(options): the channel; rest: a client of REST alone, with the channel `stored`; options: those of the client
export const asks = {
  'presence.enter': ({ get }) => get().presence.enter('x'),
  'presence.update': ({ get }) => get().presence.update('x'),
  'presence.leave': async ({ get }) => { await get().attach(); await get().presence.leave(); },
  'presence.enterClient': ({ get }) => get().presence.enterClient('me'),
  'presence.updateClient': ({ get }) => get().presence.updateClient('me'),
  'presence.leaveClient': async ({ get }) => { await get().attach(); await get().presence.leaveClient('me'); },
  'presence.get': ({ get }) => get().presence.get(),
  'presence.get with strictMode': ({ name, options }) =>
    apart({ ...options, autoConnect: true, strictMode: true }, (client) => client.channels.get(name).presence.get()),
  'presence.subscribe': ({ get }) => get().presence.subscribe(listener),
  'presence.history': ({ get }) => get().presence.history(),
  'REST presence.get': ({ stored }) => stored.presence.get(),
  'REST presence.history': ({ stored }) => stored.presence.history(),
  'batchPresence': ({ realtime, name }) => realtime.batchPresence([name]),
  'mode presence': withMode('PRESENCE'),
  'mode presence_subscribe': withMode('PRESENCE_SUBSCRIBE'),
  'param remainPresentFor': withParam('remainPresentFor', '1000'),
  'transport param remainPresentFor': ({ options }) =>
    apart({ ...options, transportParams: { remainPresentFor: '1000' } }, connected),

  'param occupancy': withParam('occupancy', 'metrics'),
  'param delta': withParam('delta', 'vcdiff'),

  'annotations.publish': ({ get }) => get().annotations.publish(SERIAL, REACTION),
  'annotations.delete': ({ get }) => get().annotations.delete(SERIAL, { ...REACTION }),
  'annotations.get': ({ get }) => get().annotations.get(SERIAL, {}),
  'annotations.subscribe': ({ get }) => get().annotations.subscribe(listener),
  'REST annotations.publish': ({ stored }) => stored.annotations.publish(SERIAL, REACTION),
  'REST annotations.delete': ({ stored }) => stored.annotations.delete(SERIAL, { ...REACTION }),
  'REST annotations.get': ({ stored }) => stored.annotations.get(SERIAL, {}),
  'mode annotation_publish': withMode('ANNOTATION_PUBLISH'),
  'mode annotation_subscribe': ({ get }) =>
    get({ modes: ['SUBSCRIBE', 'ANNOTATION_SUBSCRIBE'] }).annotations.subscribe(listener),

  'updateMessage': ({ get }) => get().updateMessage(changed),
  'deleteMessage': ({ get }) => get().deleteMessage(changed),
  'appendMessage': ({ get }) => get().appendMessage(changed),
  'getMessage': ({ get }) => get().getMessage(SERIAL),
  'getMessageVersions': ({ get }) => get().getMessageVersions(SERIAL),
  'REST updateMessage': ({ stored }) => stored.updateMessage(changed),
  'REST deleteMessage': ({ stored }) => stored.deleteMessage(changed),
  'REST appendMessage': ({ stored }) => stored.appendMessage(changed),
  'param appendMode': withParam('appendMode', 'full'),

  'publish with extras.push': ({ get }) => get().publish(PUSHED),
  'REST publish with extras.push': ({ stored }) => stored.publish(PUSHED),
  'batchPublish with extras.push': ({ realtime, name }) => inBatch(realtime, name),
  'push.subscribeClient': ({ get }) => get().push.subscribeClient(),
  'push.unsubscribeClient': ({ get }) => get().push.unsubscribeClient(),
  'push.listSubscriptions': ({ get }) => get().push.listSubscriptions(),
  'push.admin.publish': ({ rest }) => rest.push.admin.publish({ clientId: 'me' }, { notification: { title: 't' } }),
  'push.admin.deviceRegistrations.save': ({ rest }) => rest.push.admin.deviceRegistrations.save(DEVICE),
  'push.admin.deviceRegistrations.get': ({ rest }) => rest.push.admin.deviceRegistrations.get('d'),
  'push.admin.deviceRegistrations.list': ({ rest }) => rest.push.admin.deviceRegistrations.list({}),
  'push.admin.deviceRegistrations.remove': ({ rest }) => rest.push.admin.deviceRegistrations.remove('d'),
  'push.admin.deviceRegistrations.removeWhere': ({ rest }) =>
    rest.push.admin.deviceRegistrations.removeWhere({ clientId: 'me' }),
  'push.admin.channelSubscriptions.save': ({ rest, name }) =>
    rest.push.admin.channelSubscriptions.save({ channel: name, clientId: 'me' }),
  'push.admin.channelSubscriptions.list': ({ rest }) => rest.push.admin.channelSubscriptions.list({ clientId: 'me' }),
  'push.admin.channelSubscriptions.listChannels': ({ rest }) => rest.push.admin.channelSubscriptions.listChannels({}),
  'push.admin.channelSubscriptions.remove': ({ rest, name }) =>
    rest.push.admin.channelSubscriptions.remove({ channel: name, clientId: 'me' }),

  'object.get': ({ get }) => get().object.get(),
  'mode object_subscribe': ({ get }) => get({ modes: ['SUBSCRIBE', 'OBJECT_SUBSCRIBE'] }).object.get(),
  'mode object_publish': withMode('OBJECT_PUBLISH'),
  'REST object.get': ({ stored }) => stored.object.get(),

  'channels.getDerived': ({ realtime, name }) =>
    realtime.channels.getDerived(name, { filter: 'name == `"n"`' }).attach(),
  '[meta] channels': ({ realtime }) => realtime.channels.get('[meta]channel.lifecycle').attach(),
  'transport comet': ({ options }) => apart({ ...options, transports: ['comet'] }, connected),
};
