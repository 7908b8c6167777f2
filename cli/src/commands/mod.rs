//! The commands, a file per noun. Each turns words into parameters, calls the node, and shows what
//! came back; what they have in common, following a change to its end, is here, and all that can be
//! asked for in [`mod@line`].

#[cfg(test)]
mod coming_from;
pub(crate) mod console;
pub(crate) mod guest;
pub(crate) mod host;
pub(crate) mod image;
pub(crate) mod instance;
mod keys;
pub(crate) mod line;
mod metadata;
pub(crate) mod network;
pub(crate) mod operation;
mod passphrase;
pub(crate) mod port;
mod port_ref;
mod shell;
pub(crate) mod volume;

use clap::ArgMatches;
use ostler_protocol::rpc::method::Method;
use ostler_protocol::rpc::operation as wire;
use ostler_protocol::rpc::values::IdempotencyKey;

use crate::args::{Changing, Global};
use crate::client::{Client, done};
use crate::failure::{Cause, Failure};
use crate::output::Output;
use crate::progress::Progress;
use crate::reply::Operation;
use crate::target;
use line::{Cli, Noun};

/// Carry out a command line; the exit code.
pub(crate) fn run(cli: Cli, matches: &ArgMatches) -> u8 {
    let output = Output::new(&cli.global);
    match carry_out(cli, matches, output) {
        Ok(exit) => exit,
        Err(failure) => {
            output.failure(&failure);
            failure.cause.exit()
        }
    }
}

fn carry_out(cli: Cli, matches: &ArgMatches, output: Output) -> Result<u8, Failure> {
    let Cli { global, noun } = cli;
    let command = match noun {
        Noun::Completions { shell } => return shell::completions(shell).map(|()| 0),
        Noun::Man { folder } => return shell::man(&folder).map(|()| 0),
        Noun::Instance(command) => Command::Instance(command),
        Noun::Guest(command) => Command::Guest(command),
        Noun::Image(command) => Command::Image(command),
        Noun::Network(command) => Command::Network(command),
        Noun::Port(command) => Command::Port(command),
        Noun::Volume(command) => Command::Volume(command),
        Noun::Host(command) => Command::Host(command),
        Noun::Operation(command) => Command::Operation(command),
        Noun::Console(arguments) => Command::Console(arguments),
    };
    let mut session = Session::new(&global, matches, output)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|source| Cause::Local { what: "start".to_owned(), source })?;
    runtime.block_on(async {
        let outcome = command.run(&mut session).await;
        session.client.close().await;
        outcome.map(|()| session.exit)
    })
}

/// A command that talks to a node.
enum Command {
    Instance(instance::InstanceCommand),
    Guest(guest::GuestCommand),
    Image(image::ImageCommand),
    Network(network::NetworkCommand),
    Port(port::PortCommand),
    Volume(volume::VolumeCommand),
    Host(host::HostCommand),
    Operation(operation::OperationCommand),
    Console(console::ConsoleArgs),
}

impl Command {
    async fn run(self, session: &mut Session) -> Result<(), Failure> {
        match self {
            Self::Instance(command) => command.run(session).await,
            Self::Guest(command) => command.run(session).await,
            Self::Image(command) => command.run(session).await,
            Self::Network(command) => command.run(session).await,
            Self::Port(command) => command.run(session).await,
            Self::Volume(command) => command.run(session).await,
            Self::Host(command) => command.run(session).await,
            Self::Operation(command) => command.run(session).await,
            Self::Console(arguments) => arguments.run(session).await,
        }
    }
}

/// What a command works with.
pub(crate) struct Session {
    client: Client,
    output: Output,
    /// The exit code of a command that did what it was asked to: not always 0 where it runs
    /// somebody else's program.
    exit: u8,
}

/// A change that was sent.
enum Followed {
    /// It is to go on without us.
    Accepted(Operation),
    /// It is done.
    Done(Operation),
}

impl Session {
    fn new(global: &Global, matches: &ArgMatches, output: Output) -> Result<Self, Failure> {
        let target = target::choose(global, matches)?;
        Ok(Self { client: Client::new(target, global.timeout), output, exit: 0 })
    }

    /// Send a change and, unless told otherwise, wait until it is done.
    async fn follow<M: Method<Reply = wire::Operation>>(
        &mut self,
        params: &M::Params,
        changing: &Changing,
    ) -> Result<Followed, Failure> {
        let key = changing.key.clone().unwrap_or_else(IdempotencyKey::random);
        let operation = self.client.change::<M>(params, key).await?;
        if changing.no_wait {
            return Ok(Followed::Accepted(operation));
        }
        self.wait(operation).await.and_then(done).map(Followed::Done)
    }

    /// Wait until an operation is over.
    async fn wait(&mut self, operation: Operation) -> Result<Operation, Failure> {
        let mut progress = Progress::new(self.output.format());
        let over = self.client.wait(operation.id, Some(operation), &mut progress).await?;
        self.client.lift_limit();
        Ok(over)
    }
}
