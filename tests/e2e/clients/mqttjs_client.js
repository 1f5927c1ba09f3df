// One step of a session with MQTT.js; arguments and output as in paho_client.py.
const mqtt = require("mqtt");

const PATIENCE_MS = 60_000;
const [step, address, version, qosText, clientId, topic, countText] = process.argv.slice(2);
const qos = Number(qosText);

setTimeout(() => {
  console.error("nothing for a minute");
  process.exit(1);
}, PATIENCE_MS).unref();

const client = mqtt.connect(`mqtt://${address}`, {
  clientId,
  clean: false,
  protocolVersion: Number(version),
  properties: version === "5" ? { sessionExpiryInterval: 3600 } : undefined,
  reconnectPeriod: 0,
  resubscribe: false,
});

client.on("error", (error) => {
  console.error(error);
  process.exit(1);
});

// Registered before the connection: what a resumed session delivers comes right after CONNACK.
client.on("message", (_topic, payload) => {
  if (step !== "resume") return;
  console.log(payload.toString());
  if (payload.toString() === "end") client.end();
});

client.on("connect", async (connack) => {
  if (step === "subscribe") {
    const granted = await client.subscribeAsync(topic, { qos });
    if (granted[0].qos !== qos) throw new Error(`granted ${granted[0].qos}`);
    await client.endAsync();
  } else if (step === "publish") {
    for (let number = 0; number < Number(countText); number += 1) {
      client.publish(topic, `m${number}`, { qos });
    }
    await client.publishAsync(topic, "end", { qos: 1 });
    await client.endAsync();
  } else {
    console.log(`session_present=${Number(connack.sessionPresent)}`);
  }
});
