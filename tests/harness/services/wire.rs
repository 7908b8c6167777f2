//! A network between a broker and its clients that can be taken away: a relay
//! on loopback, for partitions that need neither root nor a second machine.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Broker;
use crate::{Error, Result};

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Whatever comes goes through.
    Open,
    /// Nothing goes through, and nobody is told.
    Silent,
    /// Connections are broken, and new ones too.
    Cut,
}

/// A wire to a broker. Dropping it cuts it.
#[derive(Debug)]
pub struct Wire {
    uri: String,
    way: watch::Sender<Way>,
    poison: Arc<Poison>,
    relay: JoinHandle<()>,
}

/// What breaks a connection when it comes from the broker, as if its client died of it; and how
/// often it still does.
#[derive(Debug, Default)]
struct Poison(Mutex<(String, usize)>);

impl Poison {
    fn is_in(&self, read: &[u8]) -> bool {
        let (text, left) = &mut *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let found = *left > 0 && read.windows(text.len()).any(|part| part == text.as_bytes());
        *left -= usize::from(found);
        found
    }
}

impl Wire {
    /// A wire to this broker, open.
    ///
    /// # Errors
    /// If no port can be had.
    pub async fn to(broker: &Broker) -> Result<Self> {
        let (before, rest) = broker.uri().rsplit_once(':').unwrap_or_default();
        let (port, after) = rest.split_once('/').unwrap_or_default();
        let port: u16 = port.parse().map_err(|_| Error::Garbled {
            what: "the port in the broker's URI".to_owned(),
            text: port.to_owned(),
        })?;
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(Error::io("listening for a wire"))?;
        let own = listener.local_addr().map_err(Error::io("looking for a port"))?.port();
        let way = watch::Sender::new(Way::Open);
        let poison = Arc::new(Poison::default());
        let relay = tokio::spawn(relay(listener, port, way.subscribe(), Arc::clone(&poison)));
        Ok(Self { uri: format!("{before}:{own}/{after}"), way, poison, relay })
    }

    /// The broker's URI, by this wire.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// Break each connection by which this comes from the broker; so many times.
    pub fn poison(&self, text: &str, times: usize) {
        let mut poison = self.poison.0.lock().unwrap_or_else(PoisonError::into_inner);
        *poison = (text.to_owned(), times);
    }

    /// How often it will still be broken for that.
    pub fn deaths_left(&self) -> usize {
        self.poison.0.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Let everything through.
    pub fn open(&self) {
        self.way.send_replace(Way::Open);
    }

    /// Let nothing through, and tell nobody.
    pub fn silence(&self) {
        self.way.send_replace(Way::Silent);
    }

    /// Break what is connected, and what tries to.
    pub fn cut(&self) {
        self.way.send_replace(Way::Cut);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.cut();
        self.relay.abort();
    }
}

async fn relay(listener: TcpListener, port: u16, way: watch::Receiver<Way>, poison: Arc<Poison>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let (way, poison) = (way.clone(), Arc::clone(&poison));
        tokio::spawn(async move {
            if *way.borrow() == Way::Cut {
                return;
            }
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            // the end of one direction ends both
            tokio::select! {
                () = pump(near_in, far_out, way.clone(), None) => {}
                () = pump(far_in, near_out, way, Some(&poison)) => {}
            }
        });
    }
}

/// Carry one direction until it ends or is cut.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut way: watch::Receiver<Way>,
    poison: Option<&Poison>,
) {
    let mut buffer = vec![0; 64 << 10];
    let mut cut = way.clone();
    let carried = async {
        loop {
            let Ok(read) = from.read(&mut buffer).await else { return };
            if read == 0 || way.wait_for(|way| *way != Way::Silent).await.is_err() {
                return;
            }
            let deadly = poison.is_some_and(|poison| poison.is_in(&buffer[..read]));
            if deadly || to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = carried => {}
        _ = cut.wait_for(|way| *way == Way::Cut) => {}
    }
}
