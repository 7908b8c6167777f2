//! The wire to the broker, which can be cut: a relay on loopback.

use std::net::Ipv4Addr;
use std::sync::Arc;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A relay to a broker; it ends when dropped.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    whole: watch::Sender<bool>,
    _relay: Arc<Relay>,
}

#[derive(Debug)]
struct Relay(JoinHandle<()>);

impl Wire {
    /// A relay to the broker of this URI, and the URI of the broker through it.
    pub(super) async fn to(uri: &str) -> (Self, String) {
        let (before, rest) = uri.rsplit_once('@').unwrap();
        let (broker, after) = rest.split_once('/').unwrap_or((rest, ""));
        let broker = broker.to_owned();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (whole, cut) = watch::channel(true);
        let relay = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                if *cut.borrow() {
                    tokio::spawn(relayed(near, broker.clone(), cut.clone()));
                }
            }
        });
        let through = format!("{before}@127.0.0.1:{port}/{after}");
        (Self { whole, _relay: Arc::new(Relay(relay)) }, through)
    }

    /// Break all connections, and take no new ones.
    pub(super) fn cut(&self) {
        self.whole.send_replace(false);
    }

    /// Take connections again.
    pub(super) fn mend(&self) {
        self.whole.send_replace(true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn relayed(mut near: TcpStream, broker: String, mut whole: watch::Receiver<bool>) {
    let Ok(mut far) = TcpStream::connect(broker).await else { return };
    tokio::select! {
        // However it ends, both ends are closed.
        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
        _ = whole.wait_for(|whole| !whole) => {}
    }
}
