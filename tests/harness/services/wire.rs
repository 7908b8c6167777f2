//! A network between a broker and its clients that can be taken away: a relay
//! on loopback, for partitions that need neither root nor a second machine.

use std::net::Ipv4Addr;

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
    relay: JoinHandle<()>,
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
        let relay = tokio::spawn(relay(listener, port, way.subscribe()));
        Ok(Self { uri: format!("{before}:{own}/{after}"), way, relay })
    }

    /// The broker's URI, by this wire.
    pub fn uri(&self) -> &str {
        &self.uri
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

async fn relay(listener: TcpListener, port: u16, way: watch::Receiver<Way>) {
    loop {
        let Ok((near, _)) = listener.accept().await else { continue };
        let way = way.clone();
        tokio::spawn(async move {
            if *way.borrow() == Way::Cut {
                return;
            }
            let Ok(far) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return };
            let (near_in, near_out) = near.into_split();
            let (far_in, far_out) = far.into_split();
            // the end of one direction ends both
            tokio::select! {
                () = pump(near_in, far_out, way.clone()) => {}
                () = pump(far_in, near_out, way) => {}
            }
        });
    }
}

/// Carry one direction until it ends or is cut.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>) {
    let mut buffer = vec![0; 64 << 10];
    let mut cut = way.clone();
    let carried = async {
        loop {
            let Ok(read) = from.read(&mut buffer).await else { return };
            if read == 0 || way.wait_for(|way| *way != Way::Silent).await.is_err() {
                return;
            }
            if to.write_all(&buffer[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = carried => {}
        _ = cut.wait_for(|way| *way == Way::Cut) => {}
    }
}
