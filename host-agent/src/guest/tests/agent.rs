//! Guests for the tests: the far end of Ostler's port, which behaves well only where it is told to.

use std::path::Path;

use ostler_protocol::qga::commands::info::OsInfo;
use ostler_protocol::qga::encode;
use ostler_protocol::qga::envelope::{Request, Timestamp};
use ostler_protocol::qga::events::{GuestEvent, Heartbeat, Ready};
use ostler_protocol::qga::framing::{Frame, Limits, Parser};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};

/// A port as QEMU serves it.
pub(super) struct Port {
    dir: TempDir,
    listener: UnixListener,
}

impl Port {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(dir.path().join("port")).unwrap();
        Self { dir, listener }
    }

    pub(super) fn path(&self) -> std::path::PathBuf {
        Path::join(self.dir.path(), "port")
    }

    /// The host opens it.
    pub(super) async fn opened(&self) -> Wire {
        let (stream, _) = self.listener.accept().await.unwrap();
        Wire { stream, parser: Parser::new(Limits::agent()), buffer: Vec::new() }
    }

    /// An agent that behaves, every time the port is opened.
    pub(super) fn serve(self) {
        tokio::spawn(async move {
            loop {
                let mut wire = self.opened().await;
                wire.ready().await;
                wire.serve().await;
            }
        });
    }
}

/// The port while the host has it open.
pub(super) struct Wire {
    stream: UnixStream,
    parser: Parser,
    buffer: Vec<u8>,
}

impl Wire {
    /// Whether it went out.
    pub(super) async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    pub(super) async fn event(&mut self, event: &GuestEvent) -> bool {
        let event = event.to_event(Timestamp::default()).unwrap();
        self.send(&encode::line(&event).unwrap()).await
    }

    pub(super) async fn ready(&mut self) -> bool {
        self.event(&ready()).await
    }

    pub(super) async fn answer(&mut self, request: &Request, value: Value) -> bool {
        let mut reply = json!({"return": value});
        if let Some(id) = &request.id {
            reply["id"] = id.clone();
        }
        self.send(&encode::line(&reply).unwrap()).await
    }

    pub(super) async fn refuse(&mut self, request: &Request, desc: &str) -> bool {
        let error = json!({"class": "GenericError", "desc": desc});
        self.send(&encode::line(&json!({"error": error, "id": request.id})).unwrap()).await
    }

    /// Refuses as agents do while the guest is frozen.
    pub(super) async fn refuse_frozen(&mut self, request: &Request) -> bool {
        let desc =
            format!("Command {} has been disabled: the agent is in frozen state", request.execute);
        self.refuse(request, &desc).await
    }

    /// The next request; none when the host is gone.
    pub(super) async fn request(&mut self) -> Option<Request> {
        loop {
            let mut input = self.buffer.as_slice();
            let frame = self.parser.next_frame(&mut input);
            let rest = input.len();
            self.buffer.drain(..self.buffer.len() - rest);
            match frame {
                Some(Ok(Frame::Value(value))) => return Some(Request::from_value(value).unwrap()),
                Some(Ok(Frame::Delimiter)) => {}
                Some(Err(error)) => panic!("the host wrote nonsense: {error}"),
                None => {
                    if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                        return None;
                    }
                }
            }
        }
    }

    /// The next request that is no sync; those are answered.
    pub(super) async fn question(&mut self) -> Option<Request> {
        loop {
            let request = self.request().await?;
            if request.execute != "guest-sync-delimited" {
                return Some(request);
            }
            self.send(&[0xFF]).await;
            self.answer(&request, request.arguments["id"].clone()).await;
        }
    }

    /// Reads until the host hangs up.
    pub(super) async fn hung_up(&mut self) {
        while self.request().await.is_some() {}
    }

    /// Behaves until the host is gone.
    pub(super) async fn serve(&mut self) {
        while let Some(request) = self.question().await {
            match reply(&request.execute) {
                Some(value) => self.answer(&request, value).await,
                None => self.refuse(&request, "no").await,
            };
        }
    }
}

pub(super) fn ready() -> GuestEvent {
    GuestEvent::Ready(Box::new(Ready {
        version: "9.9".into(),
        hostname: "web".into(),
        os: OsInfo { id: Some("debian".into()), ..OsInfo::default() },
        ..Ready::default()
    }))
}

pub(super) fn heartbeat() -> GuestEvent {
    GuestEvent::Heartbeat(Heartbeat { uptime: 1.0, interval: 60, ..Heartbeat::default() })
}

/// What a well-behaved agent returns. It has no file systems to tell of.
pub(super) fn reply(command: &str) -> Option<Value> {
    let info = |name: &str| json!({"name": name, "enabled": true, "success-response": true});
    match command {
        "guest-ping" | "guest-set-user-password" => Some(json!({})),
        "guest-info" => Some(json!({"version": "9.9", "supported_commands": [info("guest-ping")]})),
        "guest-get-osinfo" => Some(json!({"id": "debian", "kernel-release": "6.1"})),
        "guest-get-host-name" => Some(json!({"host-name": "web"})),
        "guest-network-get-interfaces" => Some(json!([{"name": "eth0", "ip-addresses":
            [{"ip-address": "10.0.0.5", "ip-address-type": "ipv4", "prefix": 24}]}])),
        _ => None,
    }
}
