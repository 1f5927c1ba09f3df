//! One MQTT 5 connection with as little work a packet as possible.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Range;

use holdfast_e2e::packet::{Connect, DISCONNECT, Version, subscribe};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

const INPUT_BYTES: usize = 64 << 10;

/// First byte of the packets that matter here.
pub(crate) mod kind {
    pub(crate) const CONNACK: u8 = 0x20;
    pub(crate) const PUBLISH: u8 = 0x30;
    pub(crate) const PUBACK: u8 = 0x40;
    pub(crate) const SUBACK: u8 = 0x90;
    pub(crate) const DISCONNECT: u8 = 0xe0;
}

/// A connection, its input and its output.
#[derive(Debug)]
pub(crate) struct Link {
    stream: TcpStream,
    input: Vec<u8>,
    parsed: usize,
    /// Sent by the next [`Link::flush`].
    pub(crate) output: Vec<u8>,
}

impl Link {
    /// Connects; tells whether the session was present.
    pub(crate) async fn connect(
        address: &str,
        connect: &Connect,
        input_bytes: usize,
    ) -> io::Result<(Link, bool)> {
        Link::greet(TcpStream::connect(address).await?, connect, input_bytes).await
    }

    /// Connects from an address of its own, so that more connections than one address has ports for
    /// can be made; tells whether the session was present.
    pub(crate) async fn connect_from(
        source: Ipv4Addr,
        address: &str,
        connect: &Connect,
        input_bytes: usize,
    ) -> io::Result<(Link, bool)> {
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let socket = TcpSocket::new_v4()?;
        socket.bind(SocketAddr::new(IpAddr::V4(source), 0))?;
        Link::greet(socket.connect(address).await?, connect, input_bytes).await
    }

    async fn greet(
        stream: TcpStream,
        connect: &Connect,
        input_bytes: usize,
    ) -> io::Result<(Link, bool)> {
        stream.set_nodelay(true)?;
        let input = Vec::with_capacity(input_bytes);
        let mut link = Link { stream, input, parsed: 0, output: connect.encode() };
        link.flush().await?;
        let connack = link.wait_for(kind::CONNACK).await?;
        match link.input[connack] {
            [flags, 0, ..] => Ok((link, flags == 1)),
            [_, code, ..] => Err(io::Error::other(format!("CONNACK with code {code:#x}"))),
            _ => Err(io::Error::other("short CONNACK")),
        }
    }

    /// Connects as a load connection with a large input buffer.
    pub(crate) async fn busy(address: &str, connect: &Connect) -> io::Result<(Link, bool)> {
        Link::connect(address, connect, INPUT_BYTES).await
    }

    /// Subscribes with QoS 1.
    pub(crate) async fn subscribe(&mut self, filter: &str) -> io::Result<()> {
        self.subscribe_all(&[filter]).await
    }

    /// Subscribes to all of these with QoS 1.
    pub(crate) async fn subscribe_all(&mut self, filters: &[&str]) -> io::Result<()> {
        let wanted: Vec<(&str, u8)> = filters.iter().map(|filter| (*filter, 1)).collect();
        self.output.extend(subscribe(Version::V5, 1, &wanted));
        self.flush().await?;
        let suback = self.wait_for(kind::SUBACK).await?;
        // The reason codes are the end of the packet.
        let codes: Vec<u8> = self.input[suback].iter().rev().take(filters.len()).copied().collect();
        if codes.iter().all(|code| *code == 1) {
            return Ok(());
        }
        Err(io::Error::other(format!("SUBACK with codes {codes:x?}")))
    }

    /// Leaves, and waits until the server has closed. The port is free at once.
    pub(crate) async fn disconnect(mut self) -> io::Result<()> {
        self.output.extend(DISCONNECT);
        self.flush().await?;
        while self.fill().await.is_ok() {
            self.input.clear();
            self.parsed = 0;
        }
        self.stream.set_zero_linger()
    }

    /// Reads once, whatever there is.
    pub(crate) async fn fill(&mut self) -> io::Result<()> {
        if self.parsed > 0 {
            self.input.drain(..self.parsed);
            self.parsed = 0;
        }
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(()),
        }
    }

    /// Sends what is in the output.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            self.stream.write_all(&self.output).await?;
            self.output.clear();
        }
        Ok(())
    }

    /// First byte and body of the next complete packet.
    pub(crate) fn next(&mut self) -> Option<(u8, Range<usize>)> {
        let rest = &self.input[self.parsed..];
        let mut length = 0;
        let mut header = 1;
        loop {
            let byte = *rest.get(header)?;
            length |= usize::from(byte & 0x7f) << (7 * (header - 1));
            header += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        if rest.len() < header + length {
            return None;
        }
        let body = self.parsed + header..self.parsed + header + length;
        let first = rest[0];
        self.parsed = body.end;
        Some((first, body))
    }

    /// The bytes of a body that [`Link::next`] gave.
    pub(crate) fn bytes(&self, body: &Range<usize>) -> &[u8] {
        &self.input[body.clone()]
    }

    async fn wait_for(&mut self, wanted: u8) -> io::Result<Range<usize>> {
        loop {
            while let Some((first, body)) = self.next() {
                if first & 0xf0 == wanted {
                    return Ok(body);
                }
                if first == kind::DISCONNECT {
                    let code = self.input.get(body.start).copied().unwrap_or(0);
                    return Err(io::Error::other(format!("DISCONNECT with code {code:#x}")));
                }
            }
            self.fill().await?;
        }
    }
}
