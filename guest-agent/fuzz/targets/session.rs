//! A whole session over a pair of sockets, with the real table, permitted to look and not to change:
//! whatever is sent, each answer is a line of ASCII that is a reply, and the next sync is answered.

#![no_main]

use std::os::unix::net::UnixStream as Pair;
use std::rc::Rc;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ostler_guest_agent::channel::Kind;
use ostler_guest_agent::channel::session::{AtEnd, Session};
use ostler_guest_agent::channel::socket::Socket;
use ostler_guest_agent::options::{self, Invocation};
use ostler_guest_agent::commands::Agent;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::LocalSet;

const SYNC: &[u8] = b"\xFF{'execute': 'guest-sync-delimited', 'arguments': {'id': 918273645}}";
const ANSWER: &[u8] = b"\xFF{\"return\": 918273645}\n";
/// No command that looks takes so long; some wait for a disk.
const PATIENCE: Duration = Duration::from_secs(20);

thread_local! {
    static RUNTIME: (Runtime, Rc<Agent>) = {
        let arguments = ["--profile", "observe"].into_iter().map(Into::into);
        let Ok(Invocation::Serve(settings)) = options::parse(arguments) else {
            panic!("the options are good")
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        (runtime.expect("a runtime"), Rc::new(Agent::new(&settings)))
    };
}

async fn talk(agent: Rc<Agent>, bytes: &[u8], pieces: usize) {
    let (ours, theirs) = Pair::pair().expect("a pair of sockets");
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(true).expect("a socket that does not block");
    }
    let socket = Socket::new(ours.into()).expect("a link");
    let (stop, mut stopped) = watch::channel(false);
    let session = tokio::task::spawn_local(async move {
        Session::new(agent, Kind::Standard, AtEnd::Finish, &socket).run(false, &mut stopped).await
    });
    let (mut reader, mut writer) =
        UnixStream::from_std(theirs).expect("the runtime's").into_split();
    let send = async {
        for piece in bytes.chunks(bytes.len() / pieces + 1) {
            writer.write_all(piece).await.expect("the agent listens");
            tokio::task::yield_now().await;
        }
        writer.write_all(SYNC).await.expect("the agent listens");
        writer
    };
    let receive = async {
        let mut received = Vec::new();
        while !received.ends_with(ANSWER) {
            let count = reader.read_buf(&mut received).await.expect("the agent talks");
            assert!(count > 0, "the agent has left: {}", String::from_utf8_lossy(&received));
        }
        received
    };
    let both = async { tokio::join!(send, receive) };
    let (writer, received) = tokio::time::timeout(PATIENCE, both).await.expect("an answer");
    for line in received.split_inclusive(|byte| *byte == b'\n') {
        let line = line.strip_prefix(b"\xFF").unwrap_or(line);
        assert!(line.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')), "not ASCII");
        let reply: Value = serde_json::from_slice(line).expect("a reply is JSON");
        assert!(reply.get("return").is_some() || reply.get("error").is_some(), "{reply}");
    }
    drop((writer, stop));
    session.await.expect("the session ends");
}

fuzz_target!(|input: (u8, &[u8])| {
    let (pieces, bytes) = input;
    RUNTIME.with(|(runtime, agent)| {
        let local = LocalSet::new();
        let talk = talk(agent.clone(), bytes, usize::from(pieces % 8) + 1);
        runtime.block_on(local.run_until(talk));
    });
});
