//! A forwarder in front of one address that can delay what goes through it, both ways. The kernels
//! of small machines have no netem.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::trouble::Trouble;

const BUFFER_BYTES: usize = 64 << 10;
/// Reads that may be under way at once in one direction of a connection.
const UNDER_WAY_MAX: usize = 1024;

/// Runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Forwarder {
    /// Where it listens.
    pub(crate) address: String,
    delay_ms: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Forwarder {
    /// Listens at `ip` and connects to `target`, at first without a delay.
    pub(crate) async fn start(ip: &str, target: String) -> Result<Forwarder, Trouble> {
        let listener = TcpListener::bind((ip, 0)).await;
        let listener = listener.map_err(Trouble::system("listen for the forwarder"))?;
        let address = listener.local_addr().map_err(Trouble::system("forwarder"))?.to_string();
        let delay_ms = Arc::new(AtomicU64::new(0));
        let task = tokio::spawn(accept(listener, target, delay_ms.clone()));
        Ok(Forwarder { address, delay_ms, task })
    }

    /// Everything read from now on arrives later, each way.
    pub(crate) fn set_delay(&self, delay: Duration) {
        let delay = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.delay_ms.store(delay, Ordering::Relaxed);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: String, delay_ms: Arc<AtomicU64>) {
    while let Ok((near, _)) = listener.accept().await {
        let (target, delay_ms) = (target.clone(), delay_ms.clone());
        tokio::spawn(async move {
            // If nobody is there, the caller sees its connection end.
            let Ok(far) = TcpStream::connect(target).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            let there = pass(near_in, far_out, delay_ms.clone());
            let back = pass(far_in, near_out, delay_ms);
            // One direction that ends, ends both: a peer that dies must be seen.
            tokio::select! { () = there => {} () = back => {} }
        });
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, delay_ms: Arc<AtomicU64>) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY_MAX);
    let read = async move {
        loop {
            let mut buffer = Vec::with_capacity(BUFFER_BYTES);
            match from.read_buf(&mut buffer).await {
                Ok(length) if length > 0 => {}
                _ => return,
            }
            let due = Instant::now() + Duration::from_millis(delay_ms.load(Ordering::Relaxed));
            if sender.send((due, buffer)).await.is_err() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
