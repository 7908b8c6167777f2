//! The proof that a session's consumer lives: messages the agent sends to itself through the broker.
//! A TCP connection proves nothing, and neither does a subscription.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lapin::options::QueueDeclareOptions;
use lapin::types::FieldTable;
use ostler_protocol::rpc::amqp::host_queue;
use tokio::time::Instant;

use super::Ended;
use super::session::Session;
use crate::compute::Outside;

/// How often the consumer is proven alive, and how long each half of the proof may take.
const PROBE: Duration = Duration::from_secs(20);
const PROBE_PATIENCE: Duration = Duration::from_secs(10);

impl<O: Outside> Session<O> {
    /// Why the agent does not get its own messages: if none waits, another has them.
    async fn deaf(&self) -> Ended {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = host_queue(&self.host);
        match self.channel.queue_declare(queue.into(), options, FieldTable::default()).await {
            Ok(queue) if queue.message_count() == 0 => Ended::Shared,
            Ok(_) => Ended::Deaf,
            Err(source) => Ended::of("look at the host's queue", source),
        }
    }

    /// Prove again and again that messages come through; the proof that fails is returned.
    pub(super) async fn prove(&self) -> Ended {
        let mut due = tokio::time::interval(PROBE);
        let mut heard = self.heard.subscribe();
        loop {
            due.tick().await;
            let asked = Instant::now();
            if self.outbox.is_blocked() {
                continue;
            }
            let mut probing = std::pin::pin!(self.outbox.probe(&self.host));
            loop {
                match tokio::time::timeout(PROBE_PATIENCE, &mut probing).await {
                    Ok(Ok(())) => break,
                    Ok(Err(source)) => return Ended::of("publish", source),
                    // It is known to be short of something, and will say when it is not.
                    Err(_) if self.outbox.is_blocked() => {}
                    Err(_) => return Ended::Stuck,
                }
            }
            let came = heard.wait_for(|at| *at >= asked);
            // While deliveries are being taken, the next ones wait: that is no fault of the broker.
            let deaf = tokio::time::timeout(PROBE_PATIENCE, came).await.is_err()
                && self.underway.load(Ordering::Relaxed) == 0;
            if deaf {
                return self.deaf().await;
            }
        }
    }
}
