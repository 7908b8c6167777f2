//! `ostler host ...`

use clap::Subcommand;
use ostler_protocol::rpc::host::{Host, Nothing};
use ostler_protocol::rpc::method::{HostPing, HostShow};
use ostler_protocol::rpc::versions;
use tokio::time::Instant;

use super::Session;
use crate::failure::Failure;
use crate::output::note;
use crate::reply::Shown;

/// What can be asked of the node.
#[derive(Subcommand)]
pub(crate) enum HostCommand {
    /// Show the node: its size, its use, its links
    Show,
    /// Check whether the host agent answers, and which version it is
    Ping,
}

impl HostCommand {
    /// Carry it out.
    pub(super) async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Show => {
                let host: Shown<Host> = session.client.ask::<HostShow, _>(&Nothing {}).await?;
                session.output.result(&host)
            }
            Self::Ping => {
                let asked = Instant::now();
                let pong = session.client.call::<HostPing>(&Nothing {}).await?;
                let took = asked.elapsed();
                if !(pong.protocol_oldest..=pong.protocol).contains(&versions::CURRENT) {
                    note(&format!(
                        "warning: the agent answers protocol {} to {}, and this command speaks {}",
                        pong.protocol_oldest,
                        pong.protocol,
                        versions::CURRENT
                    ));
                }
                let sentence = format!(
                    "{} answers: ostler {}, protocol {}, after {:.1} ms",
                    pong.host,
                    pong.version,
                    pong.protocol,
                    took.as_secs_f64() * 1000.0
                );
                session.output.sentence(&pong, &sentence)
            }
        }
    }
}
