//! What goes wrong with the rules.

use std::io;

/// Why the rules are not as they shall be.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// There is no netfilter to be had.
    #[error("cannot listen to nftables: does this kernel have it?")]
    Open(#[source] io::Error),
    /// `nft` cannot be run, or does not end.
    #[error("nft, which keeps guests to their addresses, cannot be run: install nftables")]
    Run(#[source] io::Error),
    /// `nft` refused: nothing was changed.
    #[error("nft refused a change of the rules: {said}")]
    Refused {
        /// What it said, cut short.
        said: String,
    },
    /// What `nft` lists cannot be read.
    #[error("what nft lists cannot be read")]
    Illegible(#[source] serde_json::Error),
}
