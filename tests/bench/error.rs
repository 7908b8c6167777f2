//! Why something could not be measured: never that it was slow.

use ostler_tests::rpc::CallError;

/// What the benchmark returns.
pub(crate) type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no number.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The harness could not do its part, or the user interrupted.
    #[error(transparent)]
    Lab(#[from] ostler_tests::Error),
    /// The host agent did not answer as it should.
    #[error("{method}")]
    Call {
        /// What was asked.
        method: String,
        /// What came back.
        source: CallError,
    },
    /// An operation of the host agent did not succeed.
    #[error("{kind} was not done: {why}")]
    Operation {
        /// What it was.
        kind: String,
        /// What the agent says.
        why: String,
    },
    /// The broker refused something.
    #[error("broker: {step}")]
    Broker {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: lapin::Error,
    },
    /// libvirt refused something.
    #[error("libvirt: {step}")]
    Libvirt {
        /// What was tried.
        step: &'static str,
        /// Why not.
        source: virt::error::Error,
    },
    /// Something that was to be measured did not come.
    #[error("{what} did not come")]
    Nothing {
        /// What.
        what: String,
    },
    /// What was read is not what it should be.
    #[error("{what} is not understood: {text}")]
    Garbled {
        /// What was read.
        what: &'static str,
        /// Its text.
        text: String,
    },
    /// A variable of the environment is no number above 0.
    #[error("{name} is {given:?}, which is no number above 0")]
    Setting {
        /// The variable.
        name: &'static str,
        /// What it says.
        given: String,
    },
}

impl Error {
    /// For `map_err` on a call.
    pub(crate) fn call(method: &str) -> impl FnOnce(CallError) -> Self {
        let method = method.to_owned();
        move |source| Self::Call { method, source }
    }

    /// For `map_err` on what the system refused.
    pub(crate) fn io(step: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Lab(ostler_tests::Error::Io { step: step.into(), source })
    }

    /// For `map_err` on the broker.
    pub(crate) fn broker(step: &'static str) -> impl FnOnce(lapin::Error) -> Self {
        move |source| Self::Broker { step, source }
    }

    /// For `map_err` on libvirt.
    pub(crate) fn libvirt(step: &'static str) -> impl FnOnce(virt::error::Error) -> Self {
        move |source| Self::Libvirt { step, source }
    }

    /// The whole chain, once.
    pub(crate) fn told(&self) -> String {
        let mut text = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        text
    }
}
