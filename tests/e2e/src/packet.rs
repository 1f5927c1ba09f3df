//! MQTT packets as a client sends and reads them, for both versions. Written by hand and apart
//! from the codec of the gateway, so that an error in one does not hide in the other.

/// MQTT 3.1.1 or 5.0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// MQTT 3.1.1
    V3,
    /// MQTT 5.0
    V5,
}

/// A property of an MQTT 5 packet, as sent: identifier and undecoded value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    /// Identifier of the property.
    pub id: u8,
    /// Its value as on the wire.
    pub value: Vec<u8>,
}

impl Property {
    /// A property with a value of four bytes.
    pub fn u32(id: u8, value: u32) -> Property {
        Property { id, value: value.to_be_bytes().to_vec() }
    }

    /// A property with a value of two bytes.
    pub fn u16(id: u8, value: u16) -> Property {
        Property { id, value: value.to_be_bytes().to_vec() }
    }

    /// The value of a numeric property.
    pub fn number(&self) -> u64 {
        if self.id == 0x0b {
            return u64::try_from(variable(&self.value).map_or(0, |(number, _)| number)).unwrap();
        }
        self.value.iter().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }
}

/// A will in CONNECT.
#[derive(Debug, Clone)]
pub struct Will {
    /// Where it is published.
    pub topic: String,
    /// What is published.
    pub payload: Vec<u8>,
    /// With which QoS.
    pub qos: u8,
    /// Whether it is retained.
    pub retain: bool,
    /// Seconds between the end of the connection and the will; MQTT 5 only.
    pub delay_s: u32,
}

/// What a CONNECT says.
#[derive(Debug, Clone)]
pub struct Connect {
    /// Protocol version.
    pub version: Version,
    /// Client identifier.
    pub client_id: String,
    /// Clean start, or clean session.
    pub clean: bool,
    /// Session expiry interval; MQTT 5 only.
    pub expiry_s: Option<u32>,
    /// Keep-alive; 0 for none.
    pub keep_alive_s: u16,
    /// Receive maximum; MQTT 5 only.
    pub receive_max: Option<u16>,
    /// The will.
    pub will: Option<Will>,
}

impl Connect {
    /// A client with a durable session.
    pub fn durable(version: Version, client_id: &str) -> Connect {
        Connect {
            version,
            client_id: client_id.to_owned(),
            clean: false,
            expiry_s: (version == Version::V5).then_some(3600),
            keep_alive_s: 0,
            receive_max: None,
            will: None,
        }
    }

    /// A client whose session ends with the connection.
    pub fn regular(version: Version, client_id: &str) -> Connect {
        Connect { clean: true, expiry_s: None, ..Connect::durable(version, client_id) }
    }

    /// The packet.
    pub fn encode(&self) -> Vec<u8> {
        let v5 = self.version == Version::V5;
        let mut body = Vec::new();
        put_string(&mut body, "MQTT");
        body.push(if v5 { 5 } else { 4 });
        let will_flags =
            self.will.as_ref().map_or(0, |will| 0x04 | will.qos << 3 | u8::from(will.retain) << 5);
        body.push(u8::from(self.clean) << 1 | will_flags);
        body.extend(self.keep_alive_s.to_be_bytes());
        if v5 {
            let mut properties = Vec::new();
            properties.extend(self.expiry_s.map(|seconds| Property::u32(0x11, seconds)));
            properties.extend(self.receive_max.map(|count| Property::u16(0x21, count)));
            put_properties(&mut body, &properties);
        }
        put_string(&mut body, &self.client_id);
        if let Some(will) = &self.will {
            if v5 {
                put_properties(&mut body, &[Property::u32(0x18, will.delay_s)]);
            }
            put_string(&mut body, &will.topic);
            put_bytes(&mut body, &will.payload);
        }
        frame(0x10, &body)
    }
}

/// A PUBLISH, either way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Publish {
    /// Topic name.
    pub topic: String,
    /// Payload.
    pub payload: Vec<u8>,
    /// QoS.
    pub qos: u8,
    /// Retain flag.
    pub retain: bool,
    /// DUP flag.
    pub dup: bool,
    /// Packet id; 0 with QoS 0.
    pub id: u16,
    /// MQTT 5 properties.
    pub properties: Vec<Property>,
}

impl Publish {
    /// A message for `topic`.
    pub fn new(topic: &str, payload: impl Into<Vec<u8>>, qos: u8) -> Publish {
        Publish { topic: topic.to_owned(), payload: payload.into(), qos, ..Publish::default() }
    }

    /// The packet.
    pub fn encode(&self, version: Version) -> Vec<u8> {
        let mut body = Vec::new();
        put_string(&mut body, &self.topic);
        if self.qos > 0 {
            body.extend(self.id.to_be_bytes());
        }
        if version == Version::V5 {
            put_properties(&mut body, &self.properties);
        }
        body.extend(&self.payload);
        frame(0x30 | u8::from(self.dup) << 3 | self.qos << 1 | u8::from(self.retain), &body)
    }

    /// The payload as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.payload).into_owned()
    }
}

/// The four acknowledgements of publishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ack {
    /// QoS 1.
    Puback,
    /// QoS 2, received.
    Pubrec,
    /// QoS 2, released.
    Pubrel,
    /// QoS 2, complete.
    Pubcomp,
}

impl Ack {
    /// The packet, with success for reason.
    pub fn encode(self, id: u16) -> Vec<u8> {
        let kind = match self {
            Ack::Puback => 0x40,
            Ack::Pubrec => 0x50,
            Ack::Pubrel => 0x62,
            Ack::Pubcomp => 0x70,
        };
        frame(kind, &id.to_be_bytes())
    }
}

/// The SUBSCRIBE packet.
pub fn subscribe(version: Version, id: u16, filters: &[(&str, u8)]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        put_properties(&mut body, &[]);
    }
    for (filter, options) in filters {
        put_string(&mut body, filter);
        body.push(*options);
    }
    frame(0x82, &body)
}

/// The UNSUBSCRIBE packet.
pub fn unsubscribe(version: Version, id: u16, filters: &[&str]) -> Vec<u8> {
    let mut body = id.to_be_bytes().to_vec();
    if version == Version::V5 {
        put_properties(&mut body, &[]);
    }
    for filter in filters {
        put_string(&mut body, filter);
    }
    frame(0xa2, &body)
}

/// The PINGREQ packet.
pub const PINGREQ: [u8; 2] = [0xc0, 0];
/// The DISCONNECT packet with reason 0.
pub const DISCONNECT: [u8; 2] = [0xe0, 0];

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// CONNACK.
    Connack {
        /// The session was there.
        session_present: bool,
        /// Return or reason code.
        code: u8,
        /// MQTT 5 properties.
        properties: Vec<Property>,
    },
    /// PUBLISH.
    Publish(Publish),
    /// PUBACK, PUBREC, PUBREL or PUBCOMP.
    Ack {
        /// Which.
        kind: Ack,
        /// Packet id.
        id: u16,
        /// Reason code, 0 where there is none.
        code: u8,
    },
    /// SUBACK.
    Suback {
        /// Packet id.
        id: u16,
        /// One for each filter.
        codes: Vec<u8>,
    },
    /// UNSUBACK.
    Unsuback {
        /// Packet id.
        id: u16,
    },
    /// PINGRESP.
    Pingresp,
    /// DISCONNECT; MQTT 5 only.
    Disconnect {
        /// Reason code.
        code: u8,
    },
}

/// Takes one packet from the front of `buffer`; none if it is not complete.
pub fn decode(version: Version, buffer: &mut Vec<u8>) -> Result<Option<Packet>, String> {
    let Some(first) = buffer.first().copied() else { return Ok(None) };
    let Some((length, used)) = variable(&buffer[1..]) else { return Ok(None) };
    let end = 1 + used + length;
    if buffer.len() < end {
        return Ok(None);
    }
    let body = buffer[1 + used..end].to_vec();
    buffer.drain(..end);
    let mut reader = Reader { rest: &body, v5: version == Version::V5 };
    reader.packet(first).map(Some).ok_or_else(|| format!("malformed packet {first:#x} {body:x?}"))
}

struct Reader<'a> {
    rest: &'a [u8],
    v5: bool,
}

impl Reader<'_> {
    fn packet(&mut self, first: u8) -> Option<Packet> {
        Some(match first >> 4 {
            2 => {
                let session_present = self.u8()? == 1;
                let code = self.u8()?;
                Packet::Connack { session_present, code, properties: self.properties()? }
            }
            3 => Packet::Publish(self.publish(first)?),
            4 => self.ack(Ack::Puback)?,
            5 => self.ack(Ack::Pubrec)?,
            6 => self.ack(Ack::Pubrel)?,
            7 => self.ack(Ack::Pubcomp)?,
            9 => {
                let id = self.u16()?;
                self.properties()?;
                Packet::Suback { id, codes: self.rest.to_vec() }
            }
            11 => Packet::Unsuback { id: self.u16()? },
            13 => Packet::Pingresp,
            14 => Packet::Disconnect { code: self.u8().unwrap_or(0) },
            _ => return None,
        })
    }

    fn publish(&mut self, first: u8) -> Option<Publish> {
        let qos = first >> 1 & 3;
        let topic = String::from_utf8(self.bytes()?).ok()?;
        let id = if qos > 0 { self.u16()? } else { 0 };
        let properties = self.properties()?;
        let payload = self.rest.to_vec();
        let (dup, retain) = (first & 8 != 0, first & 1 != 0);
        Some(Publish { topic, payload, qos, retain, dup, id, properties })
    }

    fn ack(&mut self, kind: Ack) -> Option<Packet> {
        Some(Packet::Ack { kind, id: self.u16()?, code: self.u8().unwrap_or(0) })
    }

    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn u16(&mut self) -> Option<u16> {
        Some(u16::from(self.u8()?) << 8 | u16::from(self.u8()?))
    }

    fn take(&mut self, length: usize) -> Option<Vec<u8>> {
        let (taken, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(taken.to_vec())
    }

    fn bytes(&mut self) -> Option<Vec<u8>> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    fn properties(&mut self) -> Option<Vec<Property>> {
        if !self.v5 || self.rest.is_empty() {
            return Some(Vec::new());
        }
        let (length, used) = variable(self.rest)?;
        self.take(used)?;
        let block = self.take(length)?;
        let mut reader = Reader { rest: &block, v5: true };
        let mut properties = Vec::new();
        while !reader.rest.is_empty() {
            let id = reader.u8()?;
            let length = value_length(id, reader.rest)?;
            properties.push(Property { id, value: reader.take(length)? });
        }
        Some(properties)
    }
}

/// Length of the value of property `id` that `rest` begins with.
fn value_length(id: u8, rest: &[u8]) -> Option<usize> {
    let string =
        |at: usize| Some(2 + (usize::from(*rest.get(at)?) << 8 | usize::from(*rest.get(at + 1)?)));
    Some(match id {
        0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
        0x13 | 0x21 | 0x22 | 0x23 => 2,
        0x02 | 0x11 | 0x18 | 0x27 => 4,
        0x0b => variable(rest)?.1,
        0x26 => {
            let key = string(0)?;
            key + string(key)?
        }
        0x03 | 0x08 | 0x09 | 0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => string(0)?,
        _ => return None,
    })
}

/// A variable byte integer and its length; none if more bytes are needed.
fn variable(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0;
    for (index, byte) in bytes.iter().take(4).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((value, index + 1));
        }
    }
    None
}

/// A packet with the given first byte and the length of its body.
pub fn frame(first: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![first];
    put_variable(&mut packet, body.len());
    packet.extend(body);
    packet
}

fn put_variable(packet: &mut Vec<u8>, mut value: usize) {
    loop {
        let low = u8::try_from(value & 0x7f).unwrap();
        value >>= 7;
        packet.push(if value > 0 { low | 0x80 } else { low });
        if value == 0 {
            return;
        }
    }
}

fn put_bytes(packet: &mut Vec<u8>, bytes: &[u8]) {
    packet.extend(u16::try_from(bytes.len()).unwrap().to_be_bytes());
    packet.extend(bytes);
}

/// A string as MQTT writes it.
pub fn put_string(packet: &mut Vec<u8>, text: &str) {
    put_bytes(packet, text.as_bytes());
}

fn put_properties(packet: &mut Vec<u8>, properties: &[Property]) {
    let block: Vec<u8> = properties
        .iter()
        .flat_map(|property| std::iter::once(property.id).chain(property.value.iter().copied()))
        .collect();
    put_variable(packet, block.len());
    packet.extend(block);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_publish_survives_the_way_there_and_back_in_both_versions() {
        for version in [Version::V3, Version::V5] {
            let mut publish = Publish::new("a/b", vec![7; 300], 1);
            publish.id = 9;
            if version == Version::V5 {
                publish.properties = vec![Property::u32(0x02, 60)];
            }
            let mut bytes = publish.encode(version);
            let half = bytes.len() / 2;
            assert_eq!(decode(version, &mut bytes[..half].to_vec()), Ok(None));
            assert_eq!(decode(version, &mut bytes), Ok(Some(Packet::Publish(publish))));
            assert!(bytes.is_empty());
        }
    }
}
