"""One step of a session with paho-mqtt.

paho_client.py subscribe|publish|resume HOST:PORT 4|5 QOS CLIENT_ID TOPIC COUNT

subscribe: connects without clean start, subscribes, disconnects.
publish:   publishes COUNT messages m0, m1, ... and then, with QoS 1, "end".
resume:    connects without subscribing, prints whether the session was present and then the
           payload of every message up to "end".
"""
import queue
import sys

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

PATIENCE_S = 60


def main():
    step, address, version, qos, client_id, topic, count = sys.argv[1:]
    qos, count = int(qos), int(count)
    events = queue.Queue()
    v5 = version == "5"
    options = {} if v5 else {"clean_session": False}
    client = mqtt.Client(
        mqtt.CallbackAPIVersion.VERSION2,
        client_id=client_id,
        protocol=mqtt.MQTTv5 if v5 else mqtt.MQTTv311,
        **options,
    )
    client.on_connect = lambda c, u, flags, code, p: events.put((flags.session_present, code))
    client.on_subscribe = lambda c, u, mid, codes, p: events.put(codes)
    messages = queue.Queue()
    client.on_message = lambda c, u, message: messages.put(message.payload.decode())

    host, port = address.rsplit(":", 1)
    if v5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        client.connect(host, int(port), clean_start=False, properties=properties)
    else:
        client.connect(host, int(port))
    client.loop_start()
    session_present, code = events.get(timeout=PATIENCE_S)
    assert not code.is_failure, code

    if step == "subscribe":
        client.subscribe(topic, qos)
        codes = events.get(timeout=PATIENCE_S)
        assert codes[0].value == qos, codes
    elif step == "publish":
        for number in range(count):
            client.publish(topic, f"m{number}", qos)
        client.publish(topic, "end", 1).wait_for_publish(PATIENCE_S)
    else:
        print(f"session_present={int(session_present)}")
        payload = None
        while payload != "end":
            payload = messages.get(timeout=PATIENCE_S)
            print(payload)
    client.disconnect()
    client.loop_stop()


main()
